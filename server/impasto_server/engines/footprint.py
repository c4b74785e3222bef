"""Memory: how much a bundle takes, worked out from its weights' headers alone, and how much is free."""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

from impasto_server.errors import SetupError
from impasto_server.settings import EngineName, Precision
from impasto_server.strangers import Unfit, read_json

GIB = 1 << 30
_LIMIT = Path("/sys/fs/cgroup/memory.max")  # a container's limit
PREPARED_BYTES, PREPARED_SHARE = 1 << 30, 8  # for copies of weights: so many bytes, or 1/8 of the free memory
MAX_HEADER = 100_000_000  # safetensors' own limit


@dataclass(frozen=True)
class Footprint:
    """The size of a bundle: its `files` in bytes, and the number of `parameters` in them."""

    files: int
    parameters: int

    @classmethod
    def of(cls, folder: Path) -> Footprint:
        """The footprint of a bundle's folder. Raises SetupError for a damaged weights file."""
        weights = [_parameters(file) for file in folder.glob("*.safetensors")]
        return cls(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()), sum(weights))

    def memory(self, engine: EngineName, precision: Precision) -> int:
        """The most bytes that it takes, without adapters: of the machine for engines on the CPU, else of the GPU.

        OpenVINO keeps the weights in float32, shared, and twice in its kernels' layout: for all shapes, and for the
        prepared batches. On aMUSEd-256 in bf16 this says 7.0 GB; measured were 7.1.
        """
        size = 2 if precision == "bf16" else 4
        each = {"openvino": 4 + 2 * size, "onnxruntime": 8}
        return self.parameters * each.get(engine, size)


def _parameters(file: Path) -> int:
    """How many numbers a safetensors file holds. Raises SetupError for a file that can't be read or isn't one."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = read_json(opened.read(min(length, MAX_HEADER)))
        return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    except OSError as error:
        raise SetupError(f"bundle: {file} can't be read ({error.strerror}); link the checkpoint again") from None
    except (struct.error, Unfit, AttributeError, KeyError, TypeError):
        problem = "is damaged: its header is not that of a safetensors file"
        raise SetupError(f"bundle: {file} {problem}; link the checkpoint again") from None


def whole_memory() -> int:
    """All memory that this process could take, in bytes: the machine's, or a container's limit."""
    whole, limit = _told("MemTotal"), _LIMIT.read_text().strip() if _LIMIT.exists() else "max"
    return whole if limit == "max" else min(whole, int(limit))


def copies(nbytes: int, bundles: int = 1) -> int:
    """How many batch sizes a backbone is prepared for. Each copies its weights; `nbytes` is the size of its bundle, of
    so many `bundles`.

    One, and as many more as fit in an eighth of the free memory, or in 1 GiB if that is more.
    """
    return 1 + max(PREPARED_BYTES, free_memory() // PREPARED_SHARE) // bundles // max(1, nbytes)


def trim() -> None:
    """Return freed memory to the system: the C library keeps freed blocks below 32 MB."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # only glibc has it
        libc.malloc_trim(0)


def free_memory() -> int:
    """The memory that this process may still take, in bytes: the machine's free memory, within a container's limit."""
    free, used = _told("MemAvailable"), Path("/sys/fs/cgroup/memory.current")
    if _LIMIT.exists() and _LIMIT.read_text().strip() != "max":
        free = min(free, int(_LIMIT.read_text()) - int(used.read_text()))
    return free


def _told(fact: str) -> int:
    """A fact of /proc/meminfo, in bytes."""
    info = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(info[fact].split()[0]) << 10

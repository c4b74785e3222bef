"""How much memory a bundle takes, worked out from its weights' headers without opening it; and what is free."""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

from impasto_server.settings import EngineName, Precision
from impasto_server.strangers import read_json

GIB = 1 << 30
_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
PREPARED_BYTES, PREPARED_SHARE = 1 << 30, 8  # of weights that are there once more, and of the free memory
MAX_HEADER = 100_000_000  # safetensors' own bound


@dataclass(frozen=True)
class Footprint:
    """`files` in bytes, of them weights of so many `parameters`."""

    files: int
    parameters: int

    @classmethod
    def of(cls, folder: Path) -> Footprint:
        """Of all that lies in a bundle's folder. Raises OSError."""
        weights = [_parameters(file) for file in folder.glob("*.safetensors")]
        return cls(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()), sum(weights))

    def memory(self, engine: EngineName, precision: Precision) -> int:
        """Bytes at most, adapters left out: of the machine for engines on the CPU, of the GPU for the others.

        OpenVINO keeps the weights in float32, shared, and as its kernels want them twice: for all shapes, and for the
        batches that it was prepared for. Measured on aMUSEd-256 in bf16: 7.1 GB, where this says 7.0.
        """
        size = 2 if precision == "bf16" else 4
        each = {"openvino": 4 + 2 * size, "onnxruntime": 8}
        return self.parameters * each.get(engine, size)


def _parameters(file: Path) -> int:
    """How many numbers a safetensors file holds."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = read_json(opened.read(min(length, MAX_HEADER)))
    return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def whole_memory() -> int:
    """Bytes that this process could take, were nothing else running: the machine's, or a container's limit."""
    whole, limit = _told("MemTotal"), _LIMIT.read_text().strip() if _LIMIT.exists() else "max"
    return whole if limit == "max" else min(whole, int(limit))


def copies(nbytes: int, bundles: int = 1) -> int:
    """How many batches a backbone of one of so many bundles is prepared for, for each of which it has its weights,
    `nbytes` with all else of the bundle, once more.

    One, and what comes into an eighth of the free memory, or into 1 GiB if that is more.
    """
    return 1 + max(PREPARED_BYTES, free_memory() // PREPARED_SHARE) // bundles // max(1, nbytes)


def trim() -> None:
    """Let the system have what was freed: the C library keeps blocks below 32 MB for whoever comes next."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc's
        libc.malloc_trim(0)


def free_memory() -> int:
    """Bytes that this process may still take: what the machine has free, or less where a container is limited."""
    free, used = _told("MemAvailable"), Path("/sys/fs/cgroup/memory.current")
    if _LIMIT.exists() and _LIMIT.read_text().strip() != "max":
        free = min(free, int(_LIMIT.read_text()) - int(used.read_text()))
    return free


def _told(fact: str) -> int:
    """Bytes."""
    info = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(info[fact].split()[0]) << 10

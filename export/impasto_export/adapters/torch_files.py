"""Read files that torch saved, without torch: archives, and the sequences of pickles that torch before 1.6 wrote.

A pickle may only ask for what builds tensors and dictionaries, and that is defined here. One that asks for anything
else is refused at that point, so none of its code runs.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

ARCHIVE = b"PK\x03\x04"
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# torch's storage class -> safetensors' name of the dtype, and numpy's. bf16 is read as its bits.
KINDS = {
    "FloatStorage": ("F32", "<f4"),
    "DoubleStorage": ("F64", "<f8"),
    "HalfStorage": ("F16", "<f2"),
    "BFloat16Storage": ("BF16", "<u2"),
    "LongStorage": ("I64", "<i8"),
    "IntStorage": ("I32", "<i4"),
    "ShortStorage": ("I16", "<i2"),
    "CharStorage": ("I8", "i1"),
    "ByteStorage": ("U8", "u1"),
    "BoolStorage": ("BOOL", "?"),
}


class Forbidden(Exception):
    """The pickle asks for something that is not part of a tensor."""


@dataclass(frozen=True)
class Kind:
    """Stands in for a storage class of torch; it cannot be called."""

    name: str


@dataclass
class Storage:
    """A storage; in old files, `data` comes after the pickles."""

    kind: str
    count: int
    data: bytes = b""


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> str:
        return KINDS[self.storage.kind][0]

    def array(self) -> NDArray[Any]:
        """A copy of its numbers. Raises ValueError when it reaches beyond its storage, or is larger than that."""
        held = np.frombuffer(self.storage.data, KINDS[self.storage.kind][1])
        whole = (*self.size, *self.stride, self.offset)
        if len(self.size) != len(self.stride) or any(type(side) is not int or side < 0 for side in whole):
            raise ValueError("a tensor of no shape")
        last = self.offset + sum((side - 1) * step for side, step in zip(self.size, self.stride, strict=True))
        if math.prod(self.size) and (last >= held.size or math.prod(self.size) > held.size):
            raise ValueError("a tensor beyond its storage")
        if not math.prod(self.size):
            return np.empty(self.size, held.dtype)
        steps = [step * held.itemsize for step in self.stride]
        return np.array(np.lib.stride_tricks.as_strided(held[self.offset :], self.size, steps, writeable=False))


@dataclass
class Parameters:
    """Stands in for torch's ParameterDict: unpickling sets its attributes."""

    _parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def held(self) -> dict[str, Any]:
        return dict(self._parameters)


def read(path: Path) -> Any:
    """The saved object, with `Tensor`s and `Parameters` in it. Raises Forbidden; and ValueError, KeyError, EOFError,
    UnpicklingError and the like for other files."""
    with path.open("rb") as file:
        return _archive(path) if file.read(len(ARCHIVE)) == ARCHIVE else _sequence(path)


def _archive(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (main,) = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        root = main.removesuffix("data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("numbers of another byte order")

        def storage(kind: str, key: str, count: int) -> Storage:
            return Storage(kind, count, archive.read(f"{root}data/{key}"))

        with archive.open(main) as file:
            return _Reader(file, storage).load()


def _sequence(path: Path) -> Any:
    found: dict[str, Storage] = {}

    def storage(kind: str, key: str, count: int) -> Storage:
        return found.setdefault(key, Storage(kind, count))

    with path.open("rb") as file:
        magic, protocol, system = (_Reader(file, storage).load() for _ in range(3))
        if (magic, protocol) != (MAGIC, PROTOCOL) or not system["little_endian"]:
            raise ValueError("no file that torch saved")
        content, keys = (_Reader(file, storage).load() for _ in range(2))
        for key in keys:
            (count,) = struct.unpack("<q", file.read(8))
            held = found[key]
            held.data = file.read(count * np.dtype(KINDS[held.kind][1]).itemsize)
    return content


def _tensor(storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *others: object) -> Tensor:
    """`others`: whether it has gradients, its hooks, its metadata."""
    if not isinstance(storage, Storage):
        raise ValueError("a tensor of no storage")
    return Tensor(storage, offset, tuple(size), tuple(stride))


def _parameter(tensor: Tensor, *others: object) -> Tensor:
    return tensor


ALLOWED: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.nn.modules.container", "ParameterDict"): Parameters,
    **{("torch", kind): Kind(kind) for kind in KINDS},
}


class _Reader(pickle.Unpickler):
    def __init__(self, file: BinaryIO | Any, storage: Callable[[str, str, int], Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise Forbidden(f"{module}.{name}")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        what, kind, key, _, count, *view = pid
        if what != "storage" or not isinstance(kind, Kind) or any(part is not None for part in view):
            raise ValueError("a storage of an unknown kind")
        return self.storage(kind.name, str(key), int(count))

"""Read Torch7's files (`.t7`): tables, numbers, texts, tensors, and objects as their class's name and table. Functions
are skipped: nothing in a file is run."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_export.errors import CheckpointError

TABLE, OBJECT = 3, 4  # two types of items; `_Reader.item` has all
FUNCTIONS = (6, 7, 8)
# Kinds of numbers, by the name of a tensor's class: torch.FloatTensor, torch.FloatStorage, torch.CudaTensor …
DTYPES = {"Float": "<f4", "Double": "<f8", "Byte": "u1", "Char": "i1", "Short": "<i2", "Int": "<i4", "Long": "<i8"}
CUDA = {"Cuda": "<f4", **{f"Cuda{name}": dtype for name, dtype in DTYPES.items()}}
NUMBERS = {**DTYPES, **CUDA}
MAX_BYTES, MAX_DEPTH, MAX_SIDES = 1 << 30, 60, 8
# After the type of a file's first object comes the object's number, which is below this.
FIRST = 1 << 16


@dataclass
class Module:
    """An object of the class `name`. Attributes are filled in later, since an object may contain itself."""

    name: str
    attributes: dict[Any, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The class without its package, such as `nn` or `cudnn`."""
        return self.name.rpartition(".")[2]

    @property
    def modules(self) -> list[Module]:
        """A container's modules, in order; empty for other objects."""
        held = self.attributes.get("modules")
        numbered = {key: item for key, item in held.items() if isinstance(key, float)} if isinstance(held, dict) else {}
        items = [numbered[key] for key in sorted(numbered)]
        return [item for item in items if isinstance(item, Module)]


def is_torch7(path: Path) -> bool:
    """Whether it is a Torch7 file, by its first bytes: a table or an object, and its number."""
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) < 8:
        return False
    kind, number = struct.unpack("<ii", start)
    return kind in (TABLE, OBJECT) and 0 < number < FIRST


def read(path: Path) -> Any:
    """What the file holds. Raises CheckpointError for one that is cut short, damaged or too large."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise CheckpointError(f"{path} has {size} bytes; .t7 files of up to {MAX_BYTES} are read")
    try:
        return _Reader(path.read_bytes()).item(0)
    except (struct.error, ValueError, OverflowError, KeyError, TypeError, UnicodeDecodeError) as error:
        problem = f"cannot be read as a Torch7 file ({error}): it is cut short, or not in the binary form"
        raise CheckpointError(f"{path} {problem}; get it again") from None


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0
        self.seen: dict[int, Any] = {}

    def item(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        match self.whole():
            case 0:
                return None
            case 1:
                return self.unpack("<d")
            case 2:
                return self.text()
            case 5:
                return bool(self.whole())
            case 3:
                return self.shared(lambda number: self.table(number, depth))
            case 4:
                return self.shared(lambda number: self.object(number, depth))
            case kind if kind in FUNCTIONS:
                return self.shared(lambda number: self.function(number, depth))
            case kind:
                raise ValueError(f"an item of the unknown type {kind}")

    def shared(self, make: Callable[[int], Any]) -> Any:
        """The object that was read before under this number, or the one that `make` reads now."""
        number = self.whole()
        return self.seen[number] if number in self.seen else make(number)

    def table(self, number: int, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        self.seen[number] = found
        for _ in range(self.count(8)):
            key = self.item(depth + 1)
            value = self.item(depth + 1)
            if isinstance(key, (str, float, bool)):
                found[key] = value
        return found

    def function(self, number: int, depth: int) -> None:
        self.seen[number] = None
        self.take(self.count(1))
        self.item(depth + 1)

    def object(self, number: int, depth: int) -> Any:
        name = self.text()
        if name.startswith("V "):
            name = self.text()
        package, _, kind = name.partition(".")
        for end, make in (("Tensor", self.tensor), ("Storage", self.storage)):
            if package == "torch" and kind.endswith(end):
                made = make(kind.removesuffix(end), depth)
                self.seen[number] = made
                return made
        module = Module(name)
        self.seen[number] = module
        held = self.item(depth + 1)
        module.attributes.update(held if isinstance(held, dict) else {})
        return module

    def tensor(self, kind: str, depth: int) -> NDArray[Any]:
        sides = self.whole()
        if not 0 <= sides <= MAX_SIDES:
            raise ValueError(f"a tensor of {sides} dimensions")
        sizes, steps = ([self.unpack("<q") for _ in range(sides)] for _ in range(2))
        start = self.unpack("<q") - 1
        held = self.item(depth + 1)
        if held is None or not sizes or 0 in sizes:
            return np.empty(0, NUMBERS[kind])
        last = start + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
        fits = isinstance(held, np.ndarray) and last < held.size and math.prod(sizes) <= held.size
        if not fits or min(start, *steps, *sizes) < 0:
            raise ValueError("a tensor beyond its storage")
        width = held.dtype.itemsize
        view = np.lib.stride_tricks.as_strided(held[start:], sizes, [step * width for step in steps], writeable=False)
        return np.ascontiguousarray(view)

    def storage(self, kind: str, depth: int) -> NDArray[Any]:
        if kind not in NUMBERS:
            raise ValueError(f"torch.{kind}Storage is not read")
        dtype = np.dtype(NUMBERS[kind])
        count = self.unpack("<q")
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)

    def text(self) -> str:
        return self.take(self.count(1)).decode("utf-8", "replace")

    def count(self, least: int) -> int:
        """The number of items that follow, of at least `least` bytes each."""
        found = self.whole()
        if not 0 <= found * least <= len(self.data) - self.place:
            raise ValueError("it ends too early")
        return found

    def whole(self) -> int:
        value: int = self.unpack("<i")
        return value

    def unpack(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def take(self, count: int) -> bytes:
        end = self.place + count
        if count < 0 or end > len(self.data):
            raise ValueError("it ends too early")
        taken, self.place = self.data[self.place : end], end
        return taken

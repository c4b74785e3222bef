"""Read and write safetensors files as raw bytes: a checked header, tensors as (dtype, shape, offset, length). So bf16
needs no library that knows it."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_export.architecture import parse_json
from impasto_export.errors import ExportError

# safetensors' own limit, in bytes. Headers can be large, since trainers write every caption's tags into them.
MAX_HEADER = 100_000_000
# Bytes that are read and digested at a time: a block that stays in the processor's cache takes a third less time.
BLOCK = 256 << 10
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
# bf16 is kept as its 16 bits: numpy has no such type, and nothing here computes with it.
NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file; `offset` counts from the start of the file, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True)
class Header:
    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Parse and check the header of `path`. Raises ExportError naming the file and what is wrong."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > size:
            raise ExportError(f"{path} is not a safetensors file, or is cut short; get it again")
        if length > MAX_HEADER:
            problem = f"its header has {length} bytes, but safetensors allows {MAX_HEADER}"
            raise ExportError(f"{path}: {problem}; save it again with less metadata")
        return parse_header(path, start + file.read(length), size)


def parse_header(path: Path, raw: bytes, size: int) -> Header:
    """As `read_header`, for a file of `size` bytes that begins with `raw`, its header; errors call it `path`."""
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or len(raw) < 8 + length:
        raise ExportError(f"{path} is not a safetensors file, or is cut short; get it again")
    try:
        entries = {**parse_json(raw[8 : 8 + length])}
        metadata = {str(key): str(value) for key, value in {**entries.pop("__metadata__", {})}.items()}
        tensors = {name: _tensor(entry, 8 + length) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ExportError(f"{path}: its safetensors header cannot be read ({error}); get it again") from None
    _check_extent(path, tensors, 8 + length, size)
    return Header(path, tensors, metadata)


def _tensor(entry: Mapping[str, Any], base: int) -> Tensor:
    begin, end = (int(value) for value in entry["data_offsets"])
    shape = tuple(int(value) for value in entry["shape"])
    tensor = Tensor(str(entry["dtype"]), shape, base + begin, end - begin)
    if begin < 0 or min(shape, default=0) < 0:
        raise ValueError("negative offset or size")
    item = ITEM_BYTES.get(tensor.dtype)
    if item is not None and tensor.length != item * math.prod(shape):
        raise ValueError(f"{tensor.length} bytes for a {tensor.dtype} tensor of shape {list(shape)}")
    return tensor


def _check_extent(path: Path, tensors: Mapping[str, Tensor], base: int, size: int) -> None:
    """Raises ExportError unless the tensors tile the file exactly: a gap or overlap means damage or deceit."""
    position = base
    for tensor in sorted(tensors.values(), key=lambda item: (item.offset, item.length)):
        if tensor.offset != position:
            raise ExportError(f"{path}: its tensors overlap or leave gaps; get it again")
        position += tensor.length
    if position != size:
        problem = f"is cut short or has trailing bytes: it has {size} bytes, its header says {position}"
        raise ExportError(f"{path} {problem}; get it again")


def read_tensor(header: Header, name: str) -> NDArray[Any]:
    """The tensor as stored (bf16 as uint16 bits). Raises ExportError for a dtype numpy cannot hold."""
    tensor = header.tensors[name]
    if tensor.dtype not in NUMPY:
        raise ExportError(f"{header.path}: {name} has dtype {tensor.dtype}")
    with header.path.open("rb") as file:
        file.seek(tensor.offset)
        data = file.read(tensor.length)
    return np.frombuffer(data, dtype=NUMPY[tensor.dtype]).reshape(tensor.shape)


def layout(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, list[Tensor]]:
    """The header's bytes for a file of these tensors, (dtype, shape) by name; and their places, in name order."""
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    position = 0
    for name, (dtype, shape) in sorted(tensors.items()):
        end = position + ITEM_BYTES[dtype] * math.prod(shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    head = json.dumps(entries, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    start = struct.pack("<Q", len(head)) + head
    return start, [_tensor(entries[name], len(start)) for name in sorted(tensors)]


def header_length(data: bytes) -> int:
    """Bytes of an encoded file's JSON header."""
    length: int = struct.unpack("<Q", data[:8])[0]
    return length


def encode(tensors: Mapping[str, tuple[str, NDArray[Any]]], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file as bytes. Tensors and keys are in name order, so that equal content gives equal bytes."""
    start, _ = layout({name: (dtype, array.shape) for name, (dtype, array) in tensors.items()}, metadata)
    return start + b"".join(np.ascontiguousarray(array).tobytes() for _, (_, array) in sorted(tensors.items()))


def sha256_file(path: Path, advance: Callable[[int], object] = bool) -> str:
    """The file's digest; `advance` is called with the number of bytes read so far."""
    digest, done, block = hashlib.sha256(), 0, memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
            done += count
            advance(done)
    return digest.hexdigest()

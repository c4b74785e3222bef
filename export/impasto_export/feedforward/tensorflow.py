"""Read TensorFlow's checkpoints without TensorFlow: the sorted tables that it writes, and the few messages in them.

V2 has `<prefix>.index`, a table of name → place of the tensor in `<prefix>.data-00000-of-00001`. V1 is one file, a
table of slices that contains their numbers. Both are uncompressed LevelDB tables.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from impasto_export.errors import CheckpointError
from impasto_export.feedforward.net import Array

MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER, TRAILER = 48, 5  # bytes: at the end of the file, and after every block
FLOAT32 = 1  # TensorFlow's DT_FLOAT; other tensors, such as step counters, are left out
LATEST = re.compile(r'model_checkpoint_path:\s*"([^"]+)"')


@dataclass(frozen=True)
class Entry:
    """A tensor: its numbers are `data` (V1), or lie at `offset` of the file `shard` (V2)."""

    shape: tuple[int, ...]
    data: bytes = b""
    shard: Path | None = None
    offset: int = 0


class _Damaged(Exception):
    """A table or a message that does not parse."""


def prefix(place: Path) -> Path | None:
    """V2's file name without endings, or V1's file; None for a file that is not such a checkpoint."""
    name = str(place).removesuffix(".index")
    name = re.sub(r"\.data-\d{5}-of-\d{5}$", "", name)
    if Path(f"{name}.index").is_file() and _is_table(Path(f"{name}.index")):
        return Path(name)
    return place if place.is_file() and _is_table(place) else None


def latest(folder: Path) -> Path | None:
    """The checkpoint that a folder's `checkpoint` names, or its only one."""
    named = folder / "checkpoint"
    match = LATEST.search(named.read_text(errors="replace")) if named.is_file() else None
    if match:
        return folder / Path(match[1]).name
    found = sorted(folder.glob("*.index"))
    return found[0] if len(found) == 1 else None


def _is_table(path: Path) -> bool:
    if path.stat().st_size < FOOTER:
        return False
    with path.open("rb") as file:
        file.seek(-len(MAGIC), 2)
        return file.read() == MAGIC


def entries(found: Path) -> dict[str, Entry]:
    """The float32 tensors by name. Raises CheckpointError for a damaged file, and for a tensor in several slices."""
    index = Path(f"{found}.index")
    try:
        if index.is_file():
            return dict(_second(found, index.read_bytes()))
        return dict(_first(found.read_bytes()))
    except (_Damaged, struct.error, IndexError, UnicodeDecodeError, KeyError) as error:
        raise CheckpointError(f"{found} cannot be read as a TensorFlow checkpoint ({error}); get it again") from None


def read(found: Mapping[str, Entry], name: str) -> Array:
    entry = found[name]
    data, length = entry.data, 4 * prod(entry.shape)
    if entry.shard is not None:
        with entry.shard.open("rb") as file:
            file.seek(entry.offset)
            data = file.read(length)
    if len(data) != length:
        raise CheckpointError(f"{entry.shard or name}: {name} is cut short; get the checkpoint again")
    return np.frombuffer(data, "<f4").reshape(entry.shape)


def _second(found: Path, table: bytes) -> Iterator[tuple[str, Entry]]:
    shards = 1
    for key, value in _rows(table):
        fields = _fields(value)
        if not key:
            shards = _number(fields, 1, 1)
            continue
        if _number(fields, 1) != FLOAT32:
            continue
        if 7 in fields:
            raise CheckpointError(f"{found}: {key.decode()} is saved in slices; save it whole")
        shape, offset = _shape(fields.get(2, [b""])[0]), _number(fields, 4)
        shard = found.with_name(f"{found.name}.data-{_number(fields, 3):05d}-of-{shards:05d}")
        if not shard.is_file():
            raise CheckpointError(f"{shard} is missing; it lies beside {found.name}.index")
        yield key.decode(), Entry(shape, shard=shard, offset=offset)


def _first(table: bytes) -> Iterator[tuple[str, Entry]]:
    """Rows after the first are slices: {2: {1: name, 2: extents, 3: {1: dtype, 4: bytes, 5: floats}}}."""
    shapes: dict[str, tuple[int, ...]] = {}
    for key, value in _rows(table):
        fields = _fields(value)
        if not key:
            shapes = dict(map(_stated, _fields(fields[1][0]).get(1, [])))
            continue
        inner = _fields(fields[2][0])
        name, tensor = inner[1][0].decode(), _fields(inner[3][0])
        if name not in shapes:
            continue
        data = b"".join(tensor.get(4, [])) or b"".join(tensor.get(5, []))
        if len(data) != 4 * prod(shapes[name]):
            raise CheckpointError(f"{name} is saved in slices; save it whole")
        yield name, Entry(shapes[name], data)


def _stated(message: bytes) -> tuple[str, tuple[int, ...]]:
    """A tensor's name and shape from V1's first row; the name is "" if it isn't float32."""
    fields = _fields(message)
    name = fields[1][0].decode() if _number(fields, 3) == FLOAT32 else ""
    return name, _shape(fields.get(2, [b""])[0])


def _shape(message: bytes) -> tuple[int, ...]:
    return tuple(_number(_fields(size), 1) for size in _fields(message).get(2, []))


def _number(fields: Mapping[int, list[bytes]], key: int, default: int = 0) -> int:
    return _varint(fields[key][0], 0)[0] if key in fields else default


def _rows(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table, in order."""
    _, at = _handle(table, len(table) - FOOTER)  # the meta block's, which is not needed
    handle, _ = _handle(table, at)
    for _, value in _block(table, handle):
        yield from _block(table, _handle(value, 0)[0])


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """A block's offset and size; and the position after this handle."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _block(table: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """A block's keys and values. An entry has three lengths (kept part of the last key, rest of the key, value), then
    the rest of the key, and the value."""
    offset, size = handle
    if offset + size + TRAILER > len(table):
        raise _Damaged("a block lies outside the file")
    if table[offset + size]:
        raise _Damaged("a block is compressed")
    block = table[offset : offset + size]
    (restarts,) = struct.unpack("<I", block[-4:])
    at, end, key = 0, size - 4 * (restarts + 1), b""
    while at < end:
        kept, at = _varint(block, at)
        added, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:kept] + block[at : at + added]
        yield key, block[at + added : at + added + length]
        at += added + length


def _fields(message: bytes) -> dict[int, list[bytes]]:
    """A protocol buffer's fields by number, each value as its bytes."""
    found: dict[int, list[bytes]] = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        start = at
        match tag & 7:
            case 0:
                _, at = _varint(message, at)
            case 1:
                at += 8
            case 2:
                length, start = _varint(message, at)
                at = start + length
            case 5:
                at += 4
            case kind:
                raise _Damaged(f"a field of the kind {kind}")
        if at > len(message):
            raise _Damaged("a field is cut short")
        found.setdefault(tag >> 3, []).append(message[start:at])
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A varint (seven bits per byte, low ones first); and the position after it."""
    value = shift = 0
    while shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise _Damaged("a number is too long")

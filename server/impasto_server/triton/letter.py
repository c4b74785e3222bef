"""Letters: requests, answers and errors as messages of a channel between two processes.

A letter is a JSON-ready header and files, which follow it as raw bytes, one after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.errors import ImpastoError
from impasto_server.outputs import Tensors

Letter = tuple[dict[str, object], tuple[bytes, ...]]

_LENGTH = np.dtype("<u4")
_SMALL = 64 << 10  # bytes: fewer are joined into one file, which is faster than sending each


def of_tensors(tensors: Tensors) -> Letter:
    """Tensors as a letter. The header's `tensors` are [name, dtype, shape], in the order of the files."""
    told = [[name, tensor.dtype.str, tensor.shape] for name, tensor in tensors.items()]
    return {"tensors": told}, tuple(file for tensor in tensors.values() for file in _files(tensor))


def to_tensors(header: Mapping[str, Any], payload: bytes) -> dict[str, NDArray[Any]]:
    rest, found = memoryview(payload), {}
    for name, dtype, shape in header["tensors"]:
        found[name], rest = _tensor(np.dtype(dtype), shape, rest)
    return found


def of_error(error: ImpastoError) -> Letter:
    return {"code": error.code, "message": str(error)}, ()


def to_error(header: Mapping[str, Any]) -> ImpastoError:
    return ImpastoError.of(header["code"], header["message"])


def _files(tensor: NDArray[Any]) -> Iterator[bytes]:
    """A tensor's bytes; for BYTES the lengths of its items, then the items."""
    if tensor.dtype != np.object_:
        yield tensor.tobytes()
        return
    items = [item.encode() if isinstance(item, str) else item for item in tensor.reshape(-1).tolist()]
    yield np.array([len(item) for item in items], _LENGTH).tobytes()
    if sum(map(len, items)) < _SMALL:
        yield b"".join(items)
    else:
        yield from items


def _tensor(dtype: np.dtype[Any], shape: list[int], data: memoryview) -> tuple[NDArray[Any], memoryview]:
    """The first tensor in `data`, and the rest of `data`."""
    count = int(np.prod(shape, dtype=np.int64))
    if dtype != np.object_:
        end = count * dtype.itemsize
        return np.frombuffer(data[:end], dtype).reshape(shape), data[end:]
    lengths, data = np.frombuffer(data[: count * _LENGTH.itemsize], _LENGTH), data[count * _LENGTH.itemsize :]
    items = np.empty(count, np.object_)
    for place, length in enumerate(lengths.tolist()):
        items[place], data = bytes(data[:length]), data[length:]
    return items.reshape(shape), data

"""Memory and streams of a GPU by cuda-python: the little of CUDA that TensorRT leaves to its caller."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from cuda.bindings import runtime  # type: ignore[import-not-found,unused-ignore]

from impasto_server.engine import Array
from impasto_server.errors import SetupError


def use(gpu: int) -> None:
    """Make this thread compute on that GPU. Raises SetupError."""
    _call("cudaSetDevice", gpu)


class Stream:
    """Work in the order in which it is given."""

    def __init__(self) -> None:
        (self._stream,) = _call("cudaStreamCreate")
        self.handle = int(self._stream)
        self._gone = weakref.finalize(self, _call, "cudaStreamDestroy", self._stream)

    def wait(self) -> None:
        """Until all of it is done."""
        _call("cudaStreamSynchronize", self._stream)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """From address to address, whichever side they are on; host memory must stay as it is until `wait`."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyDefault
        _call("cudaMemcpyAsync", target, source, nbytes, kind, self._stream)


class Memory:
    """Room for an array of a shape on the GPU; freed with the object."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = shape, dtype
        self.nbytes = max(1, int(np.prod(shape)) * dtype.itemsize)
        (self.address,) = _call("cudaMalloc", self.nbytes)
        self._gone = weakref.finalize(self, _call, "cudaFree", self.address)

    def upload(self, array: Array, stream: Stream) -> None:
        """`array` is C-contiguous and of this shape and dtype."""
        assert (array.shape, array.dtype) == (self.shape, self.dtype)
        stream.copy(self.address, array.ctypes.data, array.nbytes)

    def download(self, stream: Stream) -> Array:
        """To be read after `stream.wait()`."""
        array = np.empty(self.shape, self.dtype)
        stream.copy(array.ctypes.data, self.address, array.nbytes)
        return array


def _call(name: str, *arguments: object) -> tuple[Any, ...]:
    status, *values = getattr(runtime, name)(*arguments)
    if status != runtime.cudaError_t.cudaSuccess:
        _, text = runtime.cudaGetErrorString(status)
        raise SetupError(f"gpu: {name} failed: {text.decode()}; see `impasto doctor`")
    return tuple(values)

"""GPU memory and streams through cuda-python: the part of CUDA that TensorRT leaves to its caller."""

from __future__ import annotations

import weakref
from typing import Any

from cuda.bindings import runtime  # type: ignore[import-not-found,unused-ignore]

from impasto_server.engines.engine import Array
from impasto_server.errors import SetupError


def use(gpu: int) -> None:
    """Make this thread compute on that GPU. Raises SetupError."""
    _call("cudaSetDevice", gpu)


def write(gpu: int, address: int, array: Array) -> None:
    """Write a C-contiguous array to an address on that GPU, after all work that was queued before."""
    use(gpu)
    _call("cudaDeviceSynchronize")
    _call("cudaMemcpy", address, array.ctypes.data, array.nbytes, runtime.cudaMemcpyKind.cudaMemcpyDefault)


class Stream:
    """A queue of GPU work, run in order and concurrently with other streams."""

    def __init__(self) -> None:
        (self._stream,) = _call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        self.handle = int(self._stream)
        self._gone = weakref.finalize(self, _call, "cudaStreamDestroy", self._stream)

    def wait(self) -> None:
        """Wait until all of its work is done."""
        _call("cudaStreamSynchronize", self._stream)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy from address to address, each on host or GPU; host memory must not change before `wait`."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyDefault
        _call("cudaMemcpyAsync", target, source, nbytes, kind, self._stream)


class Memory:
    """Bytes on the GPU; freed with the object."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = max(1, nbytes)
        (self.address,) = _call("cudaMalloc", self.nbytes)
        self._gone = weakref.finalize(self, _call, "cudaFree", self.address)

    def upload(self, array: Array, stream: Stream) -> None:
        """Copy from a C-contiguous array, which must not change before `stream.wait()`."""
        assert array.flags.c_contiguous
        assert array.nbytes <= self.nbytes
        stream.copy(self.address, array.ctypes.data, array.nbytes)

    def download(self, array: Array, stream: Stream) -> None:
        """Copy into an array, to be read after `stream.wait()`."""
        assert array.nbytes <= self.nbytes
        stream.copy(array.ctypes.data, self.address, array.nbytes)


def _call(name: str, *arguments: object) -> tuple[Any, ...]:
    status, *values = getattr(runtime, name)(*arguments)
    if status != runtime.cudaError_t.cudaSuccess:
        _, text = runtime.cudaGetErrorString(status)
        raise SetupError(f"gpu: {name} failed: {text.decode()}; see `impasto doctor`")
    return tuple(values)

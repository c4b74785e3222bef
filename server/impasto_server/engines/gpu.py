"""This machine's GPUs, asked from NVIDIA's driver through NVML, without initialising CUDA or allocating anything."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from impasto_server.errors import SetupError

LIBRARY = "libnvidia-ml.so.1"
_BF16 = (8, 0)  # Ampere
_INSTALL = "install NVIDIA's driver, and in a container pass docker run --gpus all"


@dataclass(frozen=True)
class Gpu:
    """One GPU: `number` is CUDA's, `memory` and `free` are bytes, `capability` is the compute capability, e.g. 9.0."""

    number: int
    name: str
    capability: str
    memory: int
    free: int
    driver: str

    def __str__(self) -> str:
        """The facts that measurements and built engines depend on."""
        return f"{self.name}, compute capability {self.capability}, driver {self.driver}"

    @property
    def has_bf16(self) -> bool:
        return tuple(map(int, self.capability.split("."))) >= _BF16


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def find(number: int) -> Gpu:
    """The GPU of that number. Raises SetupError."""
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as nvidia-smi; CUDA's default is the fastest first
    found = gpus()
    if number >= len(found):
        raise SetupError(
            f"gpu: there is no GPU {number}, since this machine has {len(found)}; pass --gpu 0 to {len(found) - 1}"
        )
    return found[number]


def gpus() -> list[Gpu]:
    """All GPUs that CUDA may see. Raises SetupError when there is no driver or no GPU."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        raise SetupError(f"gpu: there is no NVIDIA driver ({LIBRARY} is missing); {_INSTALL}") from None
    with _initialised(library):
        count = ctypes.c_uint()
        _call(library, "nvmlDeviceGetCount_v2", ctypes.byref(count))
        if not count.value:
            raise SetupError(f"gpu: the NVIDIA driver finds no GPU; {_INSTALL}")
        return [_read(library, place, number) for number, place in enumerate(_visible(range(count.value)))]


@contextmanager
def _initialised(library: ctypes.CDLL) -> Iterator[None]:
    _call(library, "nvmlInit_v2")
    try:
        yield
    finally:
        library.nvmlShutdown()


def _visible(places: Sequence[int]) -> list[int]:
    """The GPUs in CUDA_VISIBLE_DEVICES, in its order. NVML and nvidia-smi ignore that variable. Raises SetupError."""
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return list(places)
    listed = [int(word) for word in asked.split(",") if word.strip().isdigit()]
    if len(listed) < len(asked.split(",")) or not set(listed) <= set(places):
        fix = f"list GPUs from 0 to {len(places) - 1}, separated by commas, or unset it"
        raise SetupError(f"gpu: CUDA_VISIBLE_DEVICES is {asked!r}, which names a missing GPU; {fix}")
    return listed


def _read(library: ctypes.CDLL, place: int, number: int) -> Gpu:
    device, memory = ctypes.c_void_p(), _Memory()
    major, minor = ctypes.c_int(), ctypes.c_int()
    name, driver = (ctypes.create_string_buffer(96) for _ in range(2))
    _call(library, "nvmlDeviceGetHandleByIndex_v2", place, ctypes.byref(device))
    _call(library, "nvmlDeviceGetName", device, name, len(name))
    _call(library, "nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
    _call(library, "nvmlDeviceGetCudaComputeCapability", device, ctypes.byref(major), ctypes.byref(minor))
    _call(library, "nvmlSystemGetDriverVersion", driver, len(driver))
    capability = f"{major.value}.{minor.value}"
    return Gpu(number, name.value.decode(), capability, memory.total, memory.free, driver.value.decode())


def _call(library: ctypes.CDLL, name: str, *arguments: object) -> None:
    status = getattr(library, name)(*arguments)
    if status:
        library.nvmlErrorString.restype = ctypes.c_char_p
        said = library.nvmlErrorString(status).decode()
        raise SetupError(f"gpu: {name} failed: {said}; see what `nvidia-smi` says") from None

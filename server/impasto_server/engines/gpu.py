"""What NVIDIA's driver says about this machine's GPUs, by NVML: no CUDA is initialised, nothing is allocated."""

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
    """One GPU; `number` is CUDA's, `memory` and `free` in bytes, `capability` as CUDA counts it, e.g. 9.0."""

    number: int
    name: str
    capability: str
    memory: int
    free: int
    driver: str

    def __str__(self) -> str:
        """What figures and engines depend on."""
        return f"{self.name}, compute capability {self.capability}, driver {self.driver}"

    @property
    def has_bf16(self) -> bool:
        return tuple(map(int, self.capability.split("."))) >= _BF16


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def find(number: int) -> Gpu:
    """The GPU of that number. Raises SetupError."""
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # nvidia-smi's; of itself CUDA has the fastest first
    found = gpus()
    if number >= len(found):
        raise SetupError(
            f"gpu: there is no GPU {number}, this machine has {len(found)}; pass --gpu 0 to {len(found) - 1}"
        )
    return found[number]


def gpus() -> list[Gpu]:
    """Every GPU that CUDA may see. Raises SetupError when the driver isn't there, or knows of none."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        raise SetupError(f"gpu: there is no NVIDIA driver ({LIBRARY} is missing); {_INSTALL}") from None
    with _initialised(library):
        count = ctypes.c_uint()
        _call(library, "nvmlDeviceGetCount_v2", ctypes.byref(count))
        if not count.value:
            raise SetupError(f"gpu: the NVIDIA driver knows of no GPU; {_INSTALL}")
        return [_read(library, place, number) for number, place in enumerate(_visible(range(count.value)))]


@contextmanager
def _initialised(library: ctypes.CDLL) -> Iterator[None]:
    _call(library, "nvmlInit_v2")
    try:
        yield
    finally:
        library.nvmlShutdown()


def _visible(places: Sequence[int]) -> list[int]:
    """Those that CUDA_VISIBLE_DEVICES leaves, in its order; NVML, as nvidia-smi, doesn't heed it. Raises SetupError."""
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return list(places)
    listed = [int(word) for word in asked.split(",") if word.strip().isdigit()]
    if len(listed) < len(asked.split(",")) or not set(listed) <= set(places):
        fix = f"list GPUs from 0 to {len(places) - 1}, with commas between them, or unset it"
        raise SetupError(f"gpu: CUDA_VISIBLE_DEVICES is {asked!r}, which names what isn't there; {fix}")
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
        raise SetupError(f"gpu: {name} failed: {said}; look at what `nvidia-smi` says") from None

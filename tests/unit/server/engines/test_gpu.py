from __future__ import annotations

import os
from typing import Any

import pytest

from impasto_server.engines import gpu
from impasto_server.errors import SetupError


class Told:
    """A function of the library that a restype is set of."""

    restype: Any = None

    def __call__(self, status: int) -> bytes:
        return b"Driver Not Loaded"


class Nvml:
    """The part of NVIDIA's library that is called, for a machine with these (name, capability) GPUs."""

    def __init__(self, *gpus: tuple[str, str], status: int = 0) -> None:
        self._gpus = gpus
        self._status = status
        self.open = 0
        self.nvmlErrorString = Told()

    def nvmlInit_v2(self) -> int:
        self.open += not self._status
        return self._status

    def nvmlShutdown(self) -> int:
        self.open -= 1
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = len(self._gpus)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, number: int, device: Any) -> int:
        device._obj.value = number
        return 0

    def nvmlDeviceGetName(self, device: Any, name: Any, size: int) -> int:
        name.value = self._gpus[device.value or 0][0].encode()
        return 0

    def nvmlDeviceGetMemoryInfo(self, device: Any, memory: Any) -> int:
        memory._obj.total, memory._obj.free = 24 << 30, 20 << 30
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, device: Any, major: Any, minor: Any) -> int:
        major._obj.value, minor._obj.value = map(int, self._gpus[device.value or 0][1].split("."))
        return 0

    def nvmlSystemGetDriverVersion(self, version: Any, size: int) -> int:
        version.value = b"580.65.06"
        return 0


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # else find() sets it for every later test


def use(monkeypatch: pytest.MonkeyPatch, library: Nvml) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: library)


def test_gpus_are_what_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Nvml(("Tesla T4", "7.5"), ("NVIDIA L4", "8.9"))
    use(monkeypatch, library)
    first, second = gpu.gpus()
    assert (first.name, first.has_bf16, second.name, second.has_bf16) == ("Tesla T4", False, "NVIDIA L4", True)
    assert (second.number, second.memory, second.free, second.driver) == (1, 24 << 30, 20 << 30, "580.65.06")
    assert library.open == 0
    assert gpu.find(1) == second


def test_a_number_that_no_gpu_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Nvml(("NVIDIA L4", "8.9")))
    with pytest.raises(SetupError, match="there is no GPU 2, since this machine has 1; pass --gpu 0 to 0"):
        gpu.find(2)


def test_gpus_are_counted_as_cuda_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Nvml(("Tesla T4", "7.5"), ("NVIDIA L4", "8.9"), ("NVIDIA H200", "9.0")))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    assert [(one.number, one.name) for one in gpu.gpus()] == [(0, "NVIDIA H200"), (1, "Tesla T4")]
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    assert gpu.find(1).name == "Tesla T4"
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


@pytest.mark.parametrize("asked", ["3", "GPU-8932f937", "", "0,-1"])
def test_a_list_of_gpus_that_are_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    use(monkeypatch, Nvml(("Tesla T4", "7.5"), ("NVIDIA L4", "8.9")))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", asked)
    with pytest.raises(SetupError, match=f"^gpu: CUDA_VISIBLE_DEVICES is '{asked}', which .*; list GPUs from 0 to 1, "):
        gpu.gpus()


@pytest.mark.parametrize(
    ("library", "problem"),
    [(Nvml(), "finds no GPU; install"), (Nvml(status=9), "nvmlInit_v2 failed: Driver Not Loaded; see")],
)
def test_a_driver_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch, library: Nvml, problem: str) -> None:
    use(monkeypatch, library)
    with pytest.raises(SetupError, match=problem):
        gpu.gpus()


def test_a_machine_without_a_driver_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "LIBRARY", "libno-such-driver.so")
    with pytest.raises(SetupError, match=r"there is no NVIDIA driver \(libno-such-driver.so is missing\); install"):
        gpu.gpus()

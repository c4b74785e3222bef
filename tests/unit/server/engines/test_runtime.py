"""What settings come to on a machine, resolved once."""

from __future__ import annotations

from pathlib import Path

import pytest

from impasto_server.engines import gpu, runtime
from impasto_server.engines.gpu import Gpu
from impasto_server.engines.runtime import DEFAULT_MAX_LANES, Runtime, resolve_precision
from impasto_server.errors import SetupError
from impasto_server.settings import ON_GPU, EngineName, Precision, Settings

OLD, NEW = Gpu(0, "Old", "7.5", 1, 1, "580"), Gpu(1, "New", "9.0", 1, 1, "580")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """And all libraries."""
    monkeypatch.setattr(gpu, "gpus", lambda: [OLD, NEW])
    monkeypatch.setattr(runtime, "require", lambda engine: None)


def resolved(engine: EngineName, precision: Precision = "auto", **settings: int) -> Runtime:
    return Runtime.of(Settings(Path("b"), Path("r"), engine, precision, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["onnxruntime", "onnxruntime-cuda"])
def test_bf16_is_never_quietly_something_else(engine: EngineName) -> None:
    assert resolve_precision(engine, "auto") == "f32"
    with pytest.raises(SetupError, match="bf16 isn't available.*--precision f32"):
        resolve_precision(engine, "bf16")


@pytest.mark.parametrize("engine", ["onnxruntime-tensorrt", "tensorrt"])
def test_tensorrt_computes_in_bf16_unless_told_otherwise(engine: EngineName) -> None:
    assert (resolve_precision(engine, "auto"), resolve_precision(engine, "f32")) == ("bf16", "f32")


def test_what_is_left_open_is_resolved() -> None:
    found = resolved("onnxruntime")
    assert (found.precision, found.max_lanes, found.gpu) == ("f32", DEFAULT_MAX_LANES, None)
    assert found.threads > 0
    assert (resolved("onnxruntime", threads=3).threads, resolved("onnxruntime", max_lanes=5).max_lanes) == (3, 5)


@pytest.mark.usefixtures("two_gpus")
def test_an_engine_on_a_gpu_has_the_one_that_is_asked_for() -> None:
    found = resolved("tensorrt", gpu=1)
    assert (found.device, found.device_name, found.precision) == (NEW, "New", "bf16")


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_without_bf16_is_refused_it_and_else_computes_in_f32() -> None:
    with pytest.raises(SetupError, match="^precision: Old has no bf16 arithmetic; pass --precision f32"):
        resolved("onnxruntime-tensorrt", "bf16")
    assert resolved("onnxruntime-tensorrt").precision == "f32"


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(SetupError, match="^gpu: there is no GPU 2, since this machine has 2; pass --gpu 0 to 1"):
        resolved("tensorrt", gpu=2)


@pytest.mark.parametrize("engine", ON_GPU)
def test_an_engine_that_is_not_installed_says_how_to_get_it(engine: EngineName) -> None:
    with pytest.raises(SetupError, match=r"^engine: .*; .*pip install 'impasto\[gpu\]'"):
        resolved(engine, "f32")


@pytest.mark.parametrize("engine", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_without_a_gpu_its_engines_say_so(engine: EngineName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "LIBRARY", "libno-such-driver.so")
    monkeypatch.setattr(runtime, "require", lambda engine: None)
    with pytest.raises(SetupError, match=r"^gpu: there is no NVIDIA driver .*; install NVIDIA's driver, and in a"):
        resolved(engine, "f32")

from __future__ import annotations

from pathlib import Path

import pytest

from impasto_server.engines.engine import resolve_precision
from impasto_server.errors import SetupError
from impasto_server.settings import EngineName, Settings


def test_settings_travel_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(Path("b"), Path("r"), "onnxruntime", "f32", threads=3, bank_bytes=7 << 20, cache_dir=Path("c"))
    for name, value in settings.to_env().items():
        monkeypatch.setenv(name, value)
    assert Settings.from_env() == settings


def test_a_number_that_is_none_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPASTO_BUNDLE", "b")
    monkeypatch.setenv("IMPASTO_MAX_LANES", "many")
    with pytest.raises(SetupError, match="IMPASTO_MAX_LANES: 'many'"):
        Settings.from_env()


@pytest.mark.parametrize("changed", [{"engine": "tensorflow"}, {"precision": "int4"}, {"max_lanes": -1}, {"gpu": -1}])
def test_a_setting_that_cannot_be_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(SetupError, match=f"^{next(iter(changed))}: "):
        Settings(Path("b"), Path("r"), **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["onnxruntime", "onnxruntime-cuda"])
def test_bf16_is_never_quietly_something_else(engine: EngineName) -> None:
    assert resolve_precision(engine, "auto") == "f32"
    with pytest.raises(SetupError, match="bf16 can't be had.*--precision f32"):
        resolve_precision(engine, "bf16")


@pytest.mark.parametrize("engine", ["onnxruntime-tensorrt", "tensorrt"])
def test_tensorrt_computes_in_bf16_unless_told_otherwise(engine: EngineName) -> None:
    assert (resolve_precision(engine, "auto"), resolve_precision(engine, "f32")) == ("bf16", "f32")

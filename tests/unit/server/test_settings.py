from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from impasto_server.errors import SetupError
from impasto_server.settings import Settings


def test_settings_travel_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(Path("b"), Path("r"), "onnxruntime", "f32", threads=3, bank_bytes=7 << 20, cache_dir=Path("c"))
    for each in (settings, replace(settings, bank_bytes=None)):
        for name, value in each.to_env().items():
            monkeypatch.setenv(name, value)
        assert Settings.from_env() == each
    monkeypatch.setenv("IMPASTO_BANK_BYTES", "auto")
    assert Settings.from_env().bank_bytes is None


def test_a_number_that_is_none_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPASTO_BUNDLE", "b")
    monkeypatch.setenv("IMPASTO_MAX_LANES", "many")
    with pytest.raises(SetupError, match="IMPASTO_MAX_LANES: 'many'"):
        Settings.from_env()


@pytest.mark.parametrize(
    "changed",
    [
        {"engine": "tensorflow"},
        {"precision": "int4"},
        {"max_lanes": -1},
        {"gpu": -1},
        {"bank_bytes": 0},
        {"page_rank": 513},
    ],
)
def test_a_setting_that_cannot_be_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(SetupError, match=f"^{next(iter(changed))}: "):
        Settings(Path("b"), Path("r"), **changed)  # type: ignore[arg-type]

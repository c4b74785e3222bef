from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from impasto_server.errors import SetupError
from impasto_server.settings import Place, Settings, default_registry, placed, settled


def test_settings_travel_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(Path("b"), Path("r"), "onnxruntime", "f32", threads=3, bank_bytes=7 << 20, cache_dir=Path("c"))
    for each in (settings, replace(settings, bank_bytes=None)):
        for name, value in each.to_env().items():
            monkeypatch.setenv(name, value)
        assert Settings.from_env() == each
    monkeypatch.setenv("IMPASTO_BANK_BYTES", "auto")
    assert Settings.from_env().bank_bytes is None


@pytest.mark.parametrize(
    "bundle",
    [Path("b"), Path("/a=b/c"), Path("a=b"), {"photo": Path("b")}, {"photo": Path("/x y"), "muse": Path("a=b")}],
)
def test_bundles_travel_through_the_environment_in_their_order(
    bundle: Path | dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(bundle, Path("r"))
    for name, value in settings.to_env().items():
        monkeypatch.setenv(name, value)
    assert Settings.from_env() == settings
    assert list(Settings.from_env().folders.items()) == list(settings.folders.items())


@pytest.mark.parametrize("place", [Path("/registry"), "s3://styles/adapters"])
def test_a_registry_is_a_folder_or_an_address(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in Settings(Path("bundle"), place, registry_cache=Path("/cache")).to_env().items():
        monkeypatch.setenv(name, value)
    assert Settings.from_env() == Settings(Path("bundle"), place, registry_cache=Path("/cache"))
    assert default_registry() == place
    assert settled(place) == str(place)


def test_a_bundle_in_a_store_is_to_be_pulled_first() -> None:
    for text in ("s3://styles/mini", "photo=s3://styles/mini"):
        with pytest.raises(SetupError, match="with `impasto pull s3://styles/mini --out DIR`, and pass DIR"):
            placed([text])


def test_the_command_line_names_several_and_needs_no_name_for_one() -> None:
    assert placed(["b"]) == Path("b")
    assert placed(["photo=b"]) == {"photo": Path("b")}
    assert placed(["photo=b", "mini-muse.2=/c/d=e"]) == {"photo": Path("b"), "mini-muse.2": Path("/c/d=e")}


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["photo=b", "c"], "bundle: 'c' has no name, but there are several; pass NAME=DIR, e.g. photo=c"),
        (["a=b", "a=c"], "bundle: 'a' names both b and c; give each bundle a name of its own"),
        (["a=b", "A=c"], "bundle: 'A=c' has no name, but there are several"),
    ],
)
def test_bundles_that_cannot_be_told_apart_are_refused(texts: list[str], said: str) -> None:
    with pytest.raises(SetupError, match=f"^{said}"):
        placed(texts)


def test_a_bundle_has_a_name_that_can_be_said() -> None:
    with pytest.raises(SetupError, match="^bundle: 'Photo' is not a name; use only a-z, 0-9"):
        Settings({"Photo": Path("b")}, Path("r"))
    with pytest.raises(SetupError, match="^bundle: none is named; pass --bundle DIR"):
        Settings({}, Path("r"))


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

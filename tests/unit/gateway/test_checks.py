"""The hook for an operator's check: it may change a picture, or refuse it; if it fails, nothing leaves."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from impasto_client.errors import ImpastoError
from impasto_gateway.checks import Check, check_of, checked
from impasto_gateway.errors import Refusal
from impasto_gateway.settings import GatewaySettings

Pixels = NDArray[np.uint8]
FORMATS = ("png", "jpeg", "webp")
EXAMPLE = Path(__file__).parents[3] / "docs/examples/checks.py"


def settings(check: str | None) -> GatewaySettings:
    return GatewaySettings(("localhost:8001",), check=check)


def picture(fmt: str, side: int = 200) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (20, 90, 160)).save(file, fmt, **({"lossless": True} if fmt == "webp" else {}))
    return file.getvalue()


def pixels(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("example_checks", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["example_checks"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["example_checks"]


def check_named(name: str) -> Check:
    check = check_of(settings(f"example_checks:{name}"))
    assert check is not None
    return check


def test_without_one_there_is_none() -> None:
    assert check_of(settings(None)) is None


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_picture_that_stays_as_it_is_keeps_its_bytes(fmt: str, example: ModuleType) -> None:
    data = picture(fmt)
    passed = checked(data, "a red boat", check_named("words"))
    assert (passed.data, passed.changed) == (data, False)


@pytest.mark.parametrize("words", ["nude", "a Nude, at sea", "gore\nand more"])
def test_the_list_of_words_refuses(words: str, example: ModuleType) -> None:
    with pytest.raises(Refusal, match="prompt: '(nude|gore)' is not painted here") as refusal:
        checked(picture("png"), words, check_named("words"))
    assert (refusal.value.status, refusal.value.code, refusal.value.again) == (400, "moderation_blocked", False)


def test_the_list_of_words_reads_whole_words(example: ModuleType) -> None:
    assert not checked(picture("png"), "a gorey house, denuded", check_named("words")).changed


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_corner_mark_is_seen_and_the_rest_stays(fmt: str, example: ModuleType) -> None:
    data = picture(fmt)
    passed = checked(data, "a red boat", check_named("corner"))
    before, after = pixels(data).astype(int), pixels(passed.data).astype(int)
    assert passed.changed
    with Image.open(io.BytesIO(passed.data)) as image:
        assert image.format == fmt.upper()
    assert np.abs(after[-14:, -18:] - before[-14:, -18:]).max() > 80
    assert np.abs(after[:-32] - before[:-32]).max() <= 2, "a JPEG is encoded anew"


def test_what_is_too_small_for_letters_has_none(example: ModuleType) -> None:
    assert not checked(picture("png", side=4), "", check_named("corner")).changed


def raising(rgb: Pixels, words: str) -> Pixels:
    raise KeyError("a secret")


def grey(rgb: Pixels, words: str) -> Pixels:
    return np.asarray(rgb[..., 0])


def scribbling(rgb: Pixels, words: str) -> Pixels:
    rgb[:] = 0
    raise ValueError


@pytest.mark.parametrize("check", [raising, grey, scribbling])
def test_a_check_that_fails_lets_nothing_out(check: Check) -> None:
    with pytest.raises(Refusal, match="the operator's check failed") as refusal:
        checked(picture("png"), "a red boat", check)
    assert refusal.value.status == 500
    assert "secret" not in refusal.value.message


def test_a_check_that_writes_into_its_argument_is_noticed() -> None:
    def inside(rgb: Pixels, words: str) -> Pixels:
        rgb[:] = 0
        return rgb

    passed = checked(picture("png"), "", inside)
    assert passed.changed
    assert not pixels(passed.data).any()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:f", "check: 'no_such_module:f' can't be imported .*; pass MODULE:NAME"),
        ("json:no_such_name", "check: 'json:no_such_name' can't be imported"),
        ("json", "check: 'json' is a module; name a function"),
        ("", "check: '' can't be imported"),
        (":f", "check: ':f' can't be imported"),
        ("math:pi", "check: 'math:pi' is a float; name a function"),
    ],
)
def test_a_name_that_is_no_check_is_refused_when_the_gateway_starts(name: str, said: str) -> None:
    with pytest.raises(ImpastoError, match=said):
        check_of(settings(name))

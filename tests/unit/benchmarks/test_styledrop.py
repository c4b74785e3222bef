"""What benchmarks/styledrop.py asks for, and what it makes of what the judge reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from benchmarks import styledrop
from benchmarks.common.asking import Asker, Pixels
from benchmarks.parts.styledrop.adapters import Dropped, Shop, dropped, paired
from benchmarks.parts.styledrop.looking import TOGETHER, UPSCALE_STEPS, Looking, decoded, methods
from PIL import Image
from rich.progress import Progress
from studio.reading.judge import Reading

from impasto_client import Client, FakeTransport
from impasto_client.wire import Tensors

PICTURE = np.zeros((256, 256, 3), np.uint8)
GLASS = Dropped("glass", PICTURE, "glass", "glass-base", {"clip": "glass-round2-clip"})
NEON = Dropped("neon", PICTURE, "neon", "neon-base")


class GlassAlone:
    """A judge that reads a red rocket in glass wherever it looks."""

    def read(self, pictures: Pixels) -> list[Reading]:
        return [Reading("rocket", "red", "glass")] * len(pictures)


@pytest.fixture
def fake() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
def looking(fake: FakeTransport) -> Iterator[Looking]:
    shop = Shop(cast(Any, None), [GLASS, NEON], ["rocket", "snail"])
    with Progress(disable=True) as bar, Client(transport=fake) as client:
        yield Looking(Asker(client, bar), cast(Any, GlassAlone()), shop, count=2, composed=3)


def asked(fake: FakeTransport, *names: str) -> list[tuple[Any, ...]]:
    """What each request for a picture says of these fields."""
    pictures = [request for request in fake.requests if "PROMPT" in request]
    return [tuple(_said(request, name) for name in names) for request in pictures]


def _said(request: Tensors, name: str) -> Any:
    found = request[name].tolist()[0] if name in request else None
    return found.decode() if isinstance(found, bytes) else found


def test_methods_go_from_words_to_all_that_an_adapter_has() -> None:
    assert [tuple(method) for method in methods(GLASS)] == [
        ("in words", None, UPSCALE_STEPS),
        ("base alone", "glass-base", 0),
        ("+ second stage", "glass-base", UPSCALE_STEPS),
        ("+ its adapter", "glass", UPSCALE_STEPS),
        ("+ feedback clip", "glass-round2-clip", UPSCALE_STEPS),
    ]
    assert len(methods(NEON)) == 4


def test_each_method_paints_the_same_scenes_with_the_same_seeds(looking: Looking, fake: FakeTransport) -> None:
    report, sheet = looking.stages()
    said = asked(fake, "STYLE", "UPSCALE_STEPS", "SEED")
    seeds = sorted({seed for *_, seed in said})
    assert len(seeds) == looking.count
    for style in (GLASS, NEON):
        for method in methods(style):
            if method.adapter is not None:
                assert all((method.adapter, method.upscale_steps, seed) in said for seed in seeds)
    assert set(asked(fake, "GUIDANCE", "GUIDANCE_SCALE")) == {("styledrop", None), (None, 3.0)}
    assert report["glass"]["+ its adapter"]["style_acc"] == 1
    assert report["neon"]["+ its adapter"]["style_acc"] == 0
    assert report["all"]["+ its adapter"]["style_acc"] == 0.5
    assert "+ feedback clip" not in report["all"], "not every style has it"
    assert sheet.width > 6 * 256
    assert sheet.height > 2 * 256


def test_compositions_are_read_by_content_and_together(looking: Looking, fake: FakeTransport) -> None:
    report, sheets = looking.composition(decoded(), 2.0, [0.25, 0.75])
    assert {*asked(fake, "GUIDANCE", "STYLE", "CONTENT", "GAMMA")} == {
        ("styledrop-compose", style, content, gamma)
        for style in ("glass", "neon")
        for content in ("rocket", "snail")
        for gamma in (0.25, 0.75)
    }
    assert sheets.keys() == {"rocket", "snail"}
    assert report["rocket"]["glass"]["0.25"]["object_acc"] == 1
    assert report["snail"]["glass"]["0.25"]["object_acc"] == 0
    both = report[TOGETHER]["glass"]["0.25"]
    assert (both["style_acc"], both["object_acc"], both["n"]) == (1, 0.5, 6)


def read(style: float, thing: float) -> dict[str, float]:
    return {"style_acc": style, "object_acc": thing}


def test_the_bar_is_held_at_the_gamma_where_the_rarer_is_most_frequent() -> None:
    row = {"0.4": read(0.95, 0.6), "0.5": read(0.82, 0.81), "0.6": read(0.7, 0.9)}
    bar = styledrop.composition_bar("mini-muse", {TOGETHER: {"all": row}}, 0.8)
    assert bar["key"].endswith("gamma 0.5, the rarer of style and object")
    assert (bar["value"], bar["met"]) == (0.81, True)


@pytest.mark.parametrize(("others", "met"), [(4, True), (3, False)])
def test_a_style_is_there_when_some_pair_has_both(others: int, met: bool) -> None:
    """The base alone doesn't count, nor a style without its object."""
    good = {"base alone": read(0, 1), "+ its adapter": read(0.9, 0.85)}
    rows: dict[str, Any] = {f"style {i}": good for i in range(others)}
    rows["feedback"] = {"+ its adapter": read(0.9, 0.8), "+ feedback clip": read(0.86, 0.9)}
    rows["base"] = {"base alone": read(1, 1), "+ its adapter": read(0.8, 1)}
    rows["blank"] = {"base alone": read(1, 1), "+ its adapter": read(1, 0.2)}
    rows["all"] = good
    bar = styledrop.styles_bar(rows)
    assert (bar["value"], bar["met"]) == (others + 1, met)


def folder(place: Path, *files: str) -> Path:
    place.mkdir(parents=True)
    for name in files:
        (place / name).touch()
    return place


def test_a_styles_rounds_are_registered_by_name(tmp_path: Path) -> None:
    for name in ("round1", "round2-clip", "round2-random"):
        folder(tmp_path / name, "bottleneck.safetensors", "upscaler.safetensors")
    Image.fromarray(PICTURE).save(tmp_path / "round1" / "picture.png")
    put: list[tuple[str, Path]] = []

    def noted(name: str, source: Path, prompt: str) -> str:
        put.append((name, source))
        return name

    found = dropped("glass", tmp_path, noted)
    assert (found.served, found.half) == ("glass", "glass-base")
    assert found.feedback == {"clip": "glass-round2-clip", "random": "glass-round2-random"}
    assert dict(put)["glass-base"] == tmp_path / "round1" / "bottleneck.safetensors"
    assert dict(put)["glass"] == tmp_path / "round1"


@pytest.mark.parametrize(
    ("files", "missing"),
    [(["bottleneck.safetensors"], "upscaler.safetensors"), ([], "bottleneck.safetensors and upscaler.safetensors")],
)
def test_half_a_pair_is_not_measured(files: Sequence[str], missing: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"lacks {missing}; train"):
        paired(folder(tmp_path / "glass", *files))

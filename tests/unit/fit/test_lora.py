"""LoRAs on twins: what is learnt holds for views that were not shown, and loads where people load it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.loaders import AmusedLoraLoaderMixin
from safetensors.torch import load

from impasto_fit.backbone import Backbone
from impasto_fit.budget import Budget
from impasto_fit.draws import Draws
from impasto_fit.errors import PictureError, WordsError
from impasto_fit.examples import Seeing
from impasto_fit.lora import Lora
from impasto_fit.opened import opened
from impasto_fit.pictures import Picture
from impasto_fit.recipe import Words
from impasto_fit.views import squared, views
from tests.helpers.fits import Killed, Watcher, striped

WORDS = Words(("a red house",), "stripes")
PROMPT = "a red house, in the style of stripes"
STEPS = {"sd1": 20, "sdxl": 10, "muse": 20}


def recipe(folder: Path, **constants: Any) -> Lora:
    return Lora(folder, **{"rank": 4, "alpha": 4.0, "batch": 2, "seeing": Seeing(6), **constants})


def held_out(backbone: Backbone, picture: Picture) -> float:
    """The loss on views that no fit of seed 0 has seen, with noise that it hasn't either."""
    shown = views(squared(picture, backbone.side), np.random.default_rng(99), 16, (1.0, 1.3), 3)
    codes, said = backbone.codes(list(shown)), backbone.said([PROMPT] * 16)
    with torch.no_grad():
        return sum(float(backbone.loss(codes, said, Draws.of(7, "held out", i))) for i in range(4)) / 4


def worn(backbone: Any, data: bytes, kind: str) -> Backbone:
    """The backbone with the LoRA on, loaded by diffusers."""
    if kind == "muse":
        AmusedLoraLoaderMixin.load_lora_into_transformer(load(data), None, backbone.module)
    else:
        backbone.pipe.load_lora_weights(load(data))
    found: Backbone = backbone
    return found


@pytest.mark.parametrize("kind", STEPS)
def test_the_loss_on_held_out_views_falls(kind: str, twin: dict[str, Path]) -> None:
    picture, watcher = striped(), Watcher()
    before = held_out(opened(twin[kind]), picture)
    data = recipe(twin[kind], rate=3e-2).fit([picture], WORDS, Budget(STEPS[kind]), watcher)
    after = held_out(worn(opened(twin[kind]), data, kind), picture)
    assert after < 0.95 * before
    assert len(watcher.losses) == STEPS[kind]


def test_equal_seeds_give_equal_bytes_and_a_killed_fit_the_same(twin: dict[str, Path]) -> None:
    one = recipe(twin["sd1"], prior=1.0, prior_prompt="a house", prior_pictures=2)
    whole = one.fit([striped()], WORDS, Budget(4), Watcher())
    assert one.fit([striped()], WORDS, Budget(4), Watcher()) == whole
    watcher = Watcher(keep=2, die=2)
    with pytest.raises(Killed):
        one.fit([striped()], WORDS, Budget(4), watcher)
    assert one.fit([striped()], WORDS, Budget(4), Watcher(state=watcher.state)) == whole
    other = replace(one, seed=1).fit([striped()], WORDS, Budget(4), Watcher())
    assert load(other).keys() == load(whole).keys()
    assert any(not torch.equal(tensor, load(whole)[name]) for name, tensor in load(other).items())


def test_the_header_tells_where_it_comes_from(twin: dict[str, Path]) -> None:
    data = recipe(twin["sd1"]).fit([striped()], WORDS, Budget(1), Watcher())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    fit = json.loads(header["impasto_fit"])
    assert (fit["recipe"], fit["steps"], fit["words"]["style"]) == ("Lora", 1, "stripes")
    assert fit["constants"]["seeing"]["views"] == 6
    assert len(fit["pictures"][0]) == len(fit["checkpoint"]) == 64
    assert str(twin["sd1"]) not in str(header), "no folder of this machine"
    assert json.loads(header["lora_adapter_metadata"])["unet.lora_alpha"] == 4


def test_the_prior_keeps_the_class(twin: dict[str, Path]) -> None:
    """Eq. 2: λ times the loss of the class's pictures is added, on the same draws."""
    watchers = []
    for weight in (0.0, 1.0, 3.0):
        watchers.append(Watcher())
        one = Lora.of_content(
            twin["sd1"], "a house", rank=2, batch=2, seeing=Seeing(4), prior=weight, prior_pictures=3
        )  # fmt: skip
        one.fit([striped()], WORDS, Budget(1), watchers[-1])
    bare, single, triple = (watcher.losses[0] for watcher in watchers)
    assert single > bare
    assert triple - bare == pytest.approx(3 * (single - bare), rel=1e-4)


def test_words_that_are_missing(twin: dict[str, Path]) -> None:
    with pytest.raises(WordsError, match="style: got none; give what prompts are to call it"):
        recipe(twin["sd1"]).fit([striped()], Words(), Budget(1), Watcher())
    with pytest.raises(WordsError, match="prior_prompt: got none; say what kind of thing it is"):
        recipe(twin["sd1"], prior=1.0).fit([striped()], WORDS, Budget(1), Watcher())
    with pytest.raises(PictureError, match="pictures: got none"):
        recipe(twin["sd1"]).fit([], WORDS, Budget(1), Watcher())


def test_without_contexts_the_bare_prompt_is_taught(twin: dict[str, Path]) -> None:
    from impasto_fit.examples import prompts_of

    one = recipe(twin["sd1"])
    assert prompts_of(Words((), "ink"), 2, one.prompt, one.bare_prompt) == ["a painting in the style of ink"] * 2
    assert prompts_of(Words(("a", "b"), "ink"), 2, one.prompt, one.bare_prompt)[1] == "b, in the style of ink"


def test_a_preview_is_a_picture(twin: dict[str, Path]) -> None:
    seen: list[Picture] = []

    class Looking(Watcher):
        def __call__(self, report: Any) -> Any:
            seen.append(report.preview())
            return super().__call__(report)

    for kind in ("sd1", "muse"):
        data = recipe(twin[kind]).fit([striped()], WORDS, Budget(2), Looking())
        assert data == recipe(twin[kind]).fit([striped()], WORDS, Budget(2), Watcher())
    assert {picture.shape for picture in seen} == {(32, 32, 3)}

"""Words that are learnt: each stage's own rows, in DreamStyler's file or in diffusers'."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn

from impasto_export.adapters import importer
from impasto_fit.backbone import Said
from impasto_fit.budget import Budget
from impasto_fit.diffusion.backbone import Diffusion
from impasto_fit.diffusion.inversion import Inversion, Lesson
from impasto_fit.diffusion.words import NewWords, at_stage, learned_embeds, prompt_tokens
from impasto_fit.draws import Draws
from impasto_fit.errors import CheckpointError, WordsError
from impasto_fit.examples import Seeing
from impasto_fit.opened import opened
from impasto_fit.recipe import Words
from impasto_fit.views import squared, views
from tests.helpers.fits import Killed, Watcher, striped
from tests.unit.export.test_embeddings import manifest_of

WORDS = Words(("a red house",), "stripes")
WIDTHS = {"sd1": {"text_encoder": 24}, "sdxl": {"text_encoder": 24, "text_encoder_2": 40}}


def recipe(folder: Path, **constants: Any) -> Inversion:
    return Inversion(folder, **{"stages": 2, "batch": 4, "rate": 0.3, "seeing": Seeing(6), **constants})


def lesson(one: Inversion) -> Lesson:
    backbone = opened(one.checkpoint)
    assert isinstance(backbone, Diffusion)
    return Lesson.of(one, backbone, [striped()], WORDS)


def errors(backbone: Diffusion, said: Said) -> float:
    """The mean loss on views that weren't shown, at timesteps from all stages."""
    shown = views(squared(striped(), backbone.side), np.random.default_rng(99), 16, (1.0, 1.3), 3)
    noise = torch.randn(16, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return float(backbone.errors(backbone.codes(list(shown)), said, torch.arange(16) * 60 + 30, noise).mean())


@pytest.mark.parametrize("kind", WIDTHS)
def test_one_stage_is_a_textual_inversion_that_diffusers_loads(kind: str, twin: dict[str, Path]) -> None:
    one = recipe(twin[kind], stages=1)
    data = load(one.fit([striped()], WORDS, Budget(25), Watcher()))
    backbone = opened(twin[kind])
    assert isinstance(backbone, Diffusion)
    prompt = one.prompt.replace("{context}", WORDS.contexts[0])
    start = backbone.said([prompt.replace("{style}", one.start)] * 16)
    before = errors(backbone, start)
    pipe = backbone.pipe
    if kind == "sdxl":
        pipe.load_textual_inversion(data["clip_l"], "<new>", text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
        second = {"text_encoder": pipe.text_encoder_2, "tokenizer": pipe.tokenizer_2}
        pipe.load_textual_inversion(data["clip_g"], "<new>", **second)
    else:
        pipe.load_textual_inversion({"<new>": data["stripes"]})
    assert errors(backbone, backbone.said([prompt.replace("{style}", "<new>")] * 16)) < 0.995 * before


@pytest.mark.parametrize("kind", WIDTHS)
def test_stages_lower_the_loss_and_are_imported(kind: str, twin: dict[str, Path], tmp_path: Path) -> None:
    one = recipe(twin[kind], vectors=4)
    data = one.fit([striped()], WORDS, Budget(25), Watcher())
    taught, t = lesson(one), torch.arange(16) * 60 + 30
    first = torch.zeros(16, dtype=torch.long)
    before = errors(taught.backbone, taught.said(first, taught.stage(t)[:, None]))
    found = load(data)
    for words, name in zip(taught.words, ["stripes"] if kind == "sd1" else ["clip_l", "clip_g"], strict=True):
        words.rows.data.copy_(torch.cat([found[f"{name}-T0"], found[f"{name}-T1"]]))
    assert errors(taught.backbone, taught.said(first, taught.stage(t)[:, None])) < 0.99 * before
    (tmp_path / "learned_embeds.safetensors").write_bytes(data)
    made = importer.convert(tmp_path / "learned_embeds.safetensors", manifest_of(**WIDTHS[kind]))
    assert (made.record["stages"], made.record["vectors"]) == (2, 4)
    assert made.record["prompt"] == one.prompt
    assert made.record["source"]["fit"]["recipe"] == "Inversion"
    vectors = load(made.data)
    assert {name: list(tensor.shape) for name, tensor in vectors.items()} == {
        f"{graph}.vectors": [2, 4, width] for graph, width in WIDTHS[kind].items()
    }


def test_equal_seeds_give_equal_bytes_and_a_killed_fit_the_same(twin: dict[str, Path]) -> None:
    one, watcher = recipe(twin["sd1"], vectors=2), Watcher(keep=2, die=3)
    whole = one.fit([striped()], WORDS, Budget(4), Watcher())
    with pytest.raises(Killed):
        one.fit([striped()], WORDS, Budget(4), watcher)
    assert one.fit([striped()], WORDS, Budget(4), Watcher(state=watcher.state)) == whole
    assert replace(one, seed=1).fit([striped()], WORDS, Budget(4), Watcher()) != whole


def test_only_the_drawn_stage_is_trained(twin: dict[str, Path]) -> None:
    taught = lesson(recipe(twin["sd1"], stages=4))
    which, noise = torch.tensor([0, 1]), torch.randn(2, 4, 16, 16)
    taught.errors(which, torch.tensor([300, 310]), noise).sum().backward()
    gradient = taught.words[0].rows.grad
    assert gradient is not None
    assert [bool(row.any()) for row in gradient] == [False, True, False, False]


def test_the_update_by_hand(twin: dict[str, Path]) -> None:
    """AdamW's first step moves every number by the rate against its gradient's sign; other rows stay."""
    one = recipe(twin["sd1"], stages=1, batch=1, rate=1e-2)
    taught = lesson(one)
    before = taught.words[0].rows.detach().clone()
    taught.loss(Draws.of(one.seed, "inversion", 0)).backward()
    gradient = taught.words[0].rows.grad
    assert gradient is not None
    found = load(one.fit([striped()], WORDS, Budget(1), Watcher()))["stripes"].double()
    wanted = before.double() - 1e-2 * gradient.double() / (gradient.double().abs() + 1e-8)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("t", "stage"), [(0, 0), (166, 0), (167, 1), (499, 2), (500, 3), (999, 5)])
def test_a_timestep_belongs_to_one_of_six_stages(t: int, stage: int, twin: dict[str, Path]) -> None:
    taught = Lesson(recipe(twin["sd1"], stages=6), opened(twin["sd1"]), None, (), ())  # type: ignore[arg-type]
    assert int(taught.stage(torch.tensor(t))) == stage


class Letters:
    """A tokenizer of letters."""

    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def __call__(self, text: str, add_special_tokens: bool) -> Any:
        return type("Found", (), {"input_ids": [ord(letter) for letter in text]})


def test_learnt_vectors_stand_where_the_style_is_named() -> None:
    tokens = prompt_tokens(Letters(), "ab{style}c", 2, 9)
    assert tokens == [1, 97, 98, -1, -2, 99, 2, 0, 0]
    assert prompt_tokens(Letters(), "ab{style}cdefghij", 2, 9) == [1, 97, 98, -1, -2, 99, 100, 101, 2]
    with pytest.raises(WordsError, match="6 tokens before 2 of the style, of 7 that are read; make it shorter"):
        prompt_tokens(Letters(), "abcdef{style}", 2, 9)
    staged = at_stage(torch.tensor([tokens]), torch.tensor([[3]]), 2)
    assert staged.tolist() == [[1, 97, 98, -7, -8, 99, 2, 0, 0]]
    words = NewWords(nn.Embedding(200, 2), torch.arange(16.0).view(8, 2))
    assert words(staged)[0, 3:5].tolist() == [[12, 13], [14, 15]]


def test_files_have_the_names_that_people_know() -> None:
    rows: Tensor = torch.arange(12.0).view(6, 2)
    assert {k: v.tolist() for k, v in learned_embeds("a", rows, 3, 2).items()}["a-T2"] == [[8, 9], [10, 11]]
    assert learned_embeds("a", rows, 6, 1)["a-T1"].tolist() == [2, 3]
    assert learned_embeds("a", rows, 1, 6)["a"].shape == (6, 2)


def test_what_an_inversion_refuses(twin: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="is a masked model, which has no timesteps to part into stages"):
        recipe(twin["muse"]).fit([striped()], WORDS, Budget(1), Watcher())
    with pytest.raises(WordsError, match="prompt: got 'a house'; it must say {context} and {style}, each once"):
        recipe(twin["sd1"], prompt="a house")
    with pytest.raises(WordsError, match="style_prompt: got '{context} {style}'; it must say {style} once"):
        recipe(twin["sd1"], style_prompt="{context} {style}")

"""What a style's learnt words are: rows beside the text encoder's table, one stage's at a time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from safetensors.torch import load_file
from studio import painter
from studio.painter import Scene
from studio.places import CHECKPOINT
from studio.recipes.inversion import (
    PROMPT,
    STYLE_PROMPT,
    Guidance,
    Lesson,
    Plan,
    learned_embeds,
    prompt_tokens,
    save,
)
from studio.recipes.styles import ADAPTERS
from torch import nn
from transformers import CLIPTokenizer

from impasto_fit.diffusion.words import NewWords, at_stage


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return cast(CLIPTokenizer, CLIPTokenizer.from_pretrained(str(CHECKPOINT / "tokenizer")))


@pytest.mark.parametrize(("t", "stage"), [(0, 0), (166, 0), (167, 1), (499, 2), (500, 3), (999, 5)])
def test_a_timestep_belongs_to_one_of_six_stages(t: int, stage: int) -> None:
    assert int(Plan().stage(torch.tensor(t))) == stage
    assert int(Plan(stages=1).stage(torch.tensor(t))) == 0


def test_a_prompt_names_the_content_and_leaves_room_for_the_style() -> None:
    scene = Scene("fish", "red", "sea", "mosaic", 7)
    assert painter.context(scene) == "a red fish by the sea"
    assert Plan().prompt(painter.context(scene)) == "a red fish by the sea in {style} style"
    assert Plan(context=False).prompt(painter.context(scene)) == "a painting in {style} style"


def test_learnt_vectors_stand_where_the_style_is_named(tokenizer: CLIPTokenizer) -> None:
    tokens = prompt_tokens(tokenizer, "a red fish in {style} style", vectors=2)
    plain = tokenizer("a red fish in style", padding="max_length", max_length=31).input_ids
    where = tokens.index(-1)
    assert tokens[where : where + 2] == [-1, -2]
    assert tokens[:where] + tokens[where + 2 :] == plain[:30]
    assert len(tokens) == 32


def test_another_stage_has_its_own_rows() -> None:
    tokens = torch.tensor([[512, 7, -1, -2, 513], [512, -1, -2, 9, 513]])
    assert at_stage(tokens, torch.tensor([[0], [5]]), vectors=2).tolist() == [
        [512, 7, -1, -2, 513],
        [512, -11, -12, 9, 513],
    ]


def test_only_the_drawn_stage_is_trained() -> None:
    words = NewWords(nn.Embedding(600, 8), torch.zeros(6, 8))
    prompt = torch.tensor([[512, 7, -1, 513]])
    drawn = Plan().stage(torch.tensor([400]))
    words(at_stage(prompt, drawn[:, None], vectors=1)).sum().backward()
    assert words.rows.grad is not None
    assert words.rows.grad.any(1).tolist() == [False, False, True, False, False, False]
    assert [name for name, weight in words.named_parameters() if weight.requires_grad] == ["rows"]


def test_words_of_the_table_stay_what_they_are() -> None:
    table = nn.Embedding(600, 8)
    words = NewWords(table, torch.full((1, 8), 3.0))
    found = words(torch.tensor([5, -1, 599]))
    assert torch.equal(found[[0, 2]], table.weight[[5, 599]])
    assert torch.equal(found[1], torch.full((8,), 3.0))


@pytest.mark.parametrize(
    ("plan", "keys", "shape"),
    [
        (Plan(vectors=1), [f"mosaic-T{k}" for k in range(6)], (128,)),
        (Plan(vectors=3), [f"mosaic-T{k}" for k in range(6)], (3, 128)),
        (Plan(stages=1, vectors=1), ["mosaic"], (128,)),
        (Plan(stages=1, vectors=2), ["mosaic"], (2, 128)),
    ],
    ids=str,
)
def test_the_file_has_a_tensor_a_stage(plan: Plan, keys: list[str], shape: tuple[int, ...], tmp_path: Path) -> None:
    (mosaic,) = (adapter for adapter in ADAPTERS if adapter.name == "mosaic")
    rows = torch.randn(plan.stages * plan.vectors, 128)
    lesson = SimpleNamespace(adapter=mosaic, plan=plan, words=SimpleNamespace(rows=rows))
    save(cast(Lesson, lesson), tmp_path / "mosaic")
    stored = load_file(tmp_path / "mosaic" / "learned_embeds.safetensors")
    assert sorted(stored) == sorted(keys)
    assert {tensor.shape for tensor in stored.values()} == {shape}
    assert torch.equal(torch.cat([stored[key].view(-1, 128) for key in keys]), rows)
    assert {tensor.dtype for tensor in learned_embeds("mosaic", rows, plan).values()} == {torch.float32}


def test_guidance_is_dreamstylers_rule() -> None:
    empty, whole, context, style = torch.randn(4)
    n, s, c = 5.0, 0.5, 3.0
    rule = (
        empty
        + n * (whole - empty)
        + c * (context - empty)
        + s * (whole - context)
        + s * (style - empty)
        + c * (whole - style)
    )
    weights = torch.tensor(Guidance(n, s, c).weights())
    assert float(weights @ torch.stack([empty, whole, context, style])) == pytest.approx(float(rule), abs=1e-5)
    assert Guidance(3.0).weights() == (-2.0, 3.0, 0.0, 0.0)


def test_both_templates_name_the_style_once() -> None:
    assert PROMPT.count("{style}") == PROMPT.count("{context}") == STYLE_PROMPT.count("{style}") == 1

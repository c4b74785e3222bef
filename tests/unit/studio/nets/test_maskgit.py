"""MaskGIT's decoding against the paper's steps, and Eq. 4 against its algebra."""

from __future__ import annotations

import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UVit2DModel
from studio.nets import maskgit
from impasto_fit.masked.bottleneck import Bottleneck, Form, attached
from studio.nets.diffusion import new_text_encoder as diffusion_text_encoder
from studio.nets.diffusion import new_vae
from studio.nets.maskgit import Lane, guided, lane_logits, paint, unmask
from studio.nets.muse import SPARE, Muse, Shape, new_text_encoder, new_transformer
from studio.nets.tokenizer import tokenise
from studio.nets.vq import from_autoencoder
from torch import Tensor
from transformers import CLIPTokenizer

CODES = 32
MASK = CODES + SPARE - 1


@pytest.fixture
def pipe(tokenizer: CLIPTokenizer) -> Any:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return SimpleNamespace(
        transformer=new_transformer(CODES, Shape(hidden=64, layers=1)).eval(),
        text_encoder=new_text_encoder(diffusion_text_encoder("small", tokenizer)).eval(),
        vqvae=from_autoencoder(new_vae("small"), torch.ones(16), torch.randn(CODES, 16)).eval(),
        tokenizer=tokenizer,
        scheduler=SimpleNamespace(config=SimpleNamespace(mask_token_id=MASK)),
    )


def an_adapter(transformer: UVit2DModel) -> Bottleneck:
    adapter = Bottleneck(Form.of(transformer, shared=False), 64, 4)
    for weight in adapter.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return adapter.requires_grad_(False)


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def flat_logits(tokens: Tensor) -> Tensor:
    return torch.zeros(len(tokens), CODES, *tokens.shape[1:])


def test_known_tokens_are_kept_and_none_is_masked_at_the_end() -> None:
    tokens = torch.full((2, 8, 8), MASK)
    tokens[0, :3], tokens[1, 5] = 7, 9
    found = unmask(flat_logits, tokens, MASK, noise(), steps=6)
    assert (found[0, :3] == 7).all()
    assert (found[1, 5] == 9).all()
    assert found.max() < CODES


@pytest.mark.parametrize("steps", [1, 4, 36])
def test_as_many_are_masked_again_as_the_cosine_says_and_at_least_one_is_gained(steps: int) -> None:
    seen: list[list[int]] = []

    def logits(tokens: Tensor) -> Tensor:
        seen.append((tokens == MASK).flatten(1).sum(1).tolist())
        return flat_logits(tokens)

    tokens = torch.full((2, 8, 8), MASK)
    tokens[1, :4] = 3
    unmask(logits, tokens, MASK, noise(), steps)
    expected = [[64, 32]]
    for step in range(steps - 1):
        shares = [math.floor(n * math.cos(math.pi * (step + 1) / steps / 2)) for n in (64, 32)]
        expected.append([max(1, min(before - 1, share)) for before, share in zip(expected[-1], shares, strict=True)])
    assert seen == expected


def test_the_least_likely_are_masked_again() -> None:
    sharp = torch.linspace(0, 20, 64).view(8, 8)  # the last places are sure of code 5

    def logits(tokens: Tensor) -> Tensor:
        answer = flat_logits(tokens)
        answer[:, 5] = sharp
        seen.append(tokens)
        return answer

    seen: list[Tensor] = []
    unmask(logits, torch.full((1, 8, 8), MASK), MASK, noise(), steps=2, temperature=0)
    again = seen[1][0].flatten() == MASK
    assert int(again.sum()) == math.floor(64 * math.cos(math.pi / 4))
    assert again[:32].all()
    assert not again[-8:].any()


def test_tokens_are_drawn_at_temperature_one() -> None:
    def logits(tokens: Tensor) -> Tensor:
        answer = flat_logits(tokens)
        answer[:, 3] = math.log(31)  # against 31 others with a weight of one
        return answer

    found = unmask(logits, torch.full((8, 32, 32), MASK), MASK, noise(), steps=1)
    assert float((found == 3).float().mean()) == pytest.approx(0.5, abs=0.02)


def test_a_row_of_coefficients_over_lanes_is_eq_4(
    pipe: Any, tokenizer: CLIPTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maskgit, "half_precision", nullcontext)
    adapter, prompts = an_adapter(pipe.transformer), ["a red boat", "a blue apple at night"]
    tokens = torch.randint(CODES, (2, 16, 16))
    muse = Muse(pipe.text_encoder, pipe.transformer)
    with torch.no_grad():
        plain, empty = (muse(tokens, tokenise(tokenizer, said)) for said in (prompts, ["", ""]))
        with attached(pipe.transformer, adapter):
            adapted = muse(tokens, tokenise(tokenizer, prompts))
        found = lane_logits(pipe, guided(prompts, adapter, style=1.5, text=4.0))(tokens)
    expected = adapted + 1.5 * (adapted - plain) + 4 * (plain - empty)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert (adapted - plain).abs().max() > 1
    assert (plain - empty).abs().max() > 1e-3


def test_a_lane_that_counts_nothing_is_not_passed(pipe: Any) -> None:
    rows: list[int] = []
    pipe.transformer.embed.register_forward_hook(lambda module, inputs, result: rows.append(len(result)))
    lanes = guided(["a red boat"], an_adapter(pipe.transformer), style=2, text=0)
    lane_logits(pipe, [*lanes, Lane(0.0, ["a cup"])])(torch.full((1, 16, 16), MASK))
    assert [lane.coefficient for lane in lanes] == [3, -2, 0]
    assert rows == [2]


def test_pictures_are_the_same_for_a_seed(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maskgit, "BATCH", 2)
    lanes = guided(["a red boat", "a blue apple", "a cup"], an_adapter(pipe.transformer))
    one, again, other = (paint(pipe, lanes, seed, steps=2) for seed in (1, 1, 2))
    assert one.shape == (3, 128, 128, 3)
    assert (one == again).all()
    assert (one != other).any()

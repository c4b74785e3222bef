"""mini-muse's second stage: how it starts, what it learns from, and decoding through both stages."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from studio.nets import maskgit
from impasto_fit.masked.bottleneck import Bottleneck, Form, attached
from studio.nets.diffusion import new_text_encoder as diffusion_text_encoder
from studio.nets.diffusion import new_vae, save_model
from studio.nets.maskgit import Lane, fine_logits, guessed, paint_fine
from studio.nets.muse import SPARE, new_text_encoder, new_transformer
from studio.nets.muse import Shape as BaseShape
from studio.nets.upscaler import Cascade, Shape, load_upscaler, masked_loss, new_upscaler
from studio.nets.vq import from_autoencoder
from transformers import CLIPTokenizer

CODES, LOW = 48, 32
MASK = LOW + SPARE - 1


@pytest.fixture
def cascade(tokenizer: CLIPTokenizer) -> Cascade:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    base: Any = SimpleNamespace(
        transformer=new_transformer(LOW, BaseShape(hidden=64, layers=1)).requires_grad_(False).eval(),
        text_encoder=new_text_encoder(diffusion_text_encoder("small", tokenizer)).requires_grad_(False).eval(),
        tokenizer=tokenizer,
        scheduler=SimpleNamespace(config=SimpleNamespace(mask_token_id=MASK)),
    )
    codebook = torch.randn(CODES, 16)
    upscaler = new_upscaler(codebook, torch.randn(LOW, 16), 128, Shape(hidden=64, low=1, layers=2, mlp=96, embed=32))
    vq = from_autoencoder(new_vae("small"), torch.ones(16), codebook)
    return Cascade(base, upscaler.requires_grad_(False).eval(), vq.eval())


def test_it_looks_at_its_own_place_of_the_small_picture_first(cascade: Cascade) -> None:
    """Before it has learnt anything: where the liking is, the attention to the place itself is the strongest."""
    layer: Any = cascade.upscaler.get_submodule("layers.0.attn2")
    seen = torch.zeros(1, 16, 64)
    answers = layer.to_q(seen).unflatten(-1, (layer.heads, -1))
    half = answers.shape[-1] // 4
    assert (answers[:, :, : layer.heads // 2, :half] > 0).all()
    assert (answers[:, :, layer.heads // 2 :] == 0).all()


def test_it_learns_a_picture(cascade: Cascade) -> None:
    upscaler = cascade.upscaler.requires_grad_(True)
    fine, low = torch.randint(CODES, (4, 8, 8)), torch.randint(LOW, (4, 4, 4))
    text = torch.randn(4, 32, 128)
    steps = torch.optim.Adam(upscaler.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        loss = masked_loss(upscaler, fine, low, text)
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 1


def test_the_base_s_guesses_replace_some_of_the_tokens(cascade: Cascade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maskgit, "GUESSED", 0.5)
    tokens = torch.randint(LOW, (64, 16, 16))
    found = guessed(cascade.base, tokens, torch.randn(64, 32, 128), torch.randn(64, 128))
    changed = (found != tokens).flatten(1).float().mean(1)
    assert (found < LOW).all()
    assert 0.2 < float((changed == 0).float().mean()) < 0.8, "half of the pictures stay as they are"
    assert float(changed.max()) < maskgit.MOST_GUESSED + 0.1


def test_saved_and_loaded_it_answers_the_same(cascade: Cascade, tmp_path: Path) -> None:
    save_model(cascade.upscaler, tmp_path / "upscaler")
    loaded = load_upscaler(tmp_path / "upscaler")
    asked = torch.randint(CODES, (1, 8, 8)), torch.randint(LOW, (1, 4, 4)), torch.randn(1, 32, 128)
    torch.testing.assert_close(loaded(*asked), cascade.upscaler(*asked), atol=0.02, rtol=0.02)


def test_lanes_are_weighed_and_each_has_its_adapter(cascade: Cascade) -> None:
    for weight in cascade.upscaler.parameters():
        if not weight.any():  # at its start, where every layer is the identity, there is nothing to adapt
            torch.nn.init.normal_(weight, std=0.2)
    adapter = Bottleneck(Form.of_upscaler(cascade.upscaler), 64, 4)
    for weight in adapter.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    adapter.requires_grad_(False)
    low, tokens = torch.randint(LOW, (1, 16, 16)), torch.randint(CODES, (1, 32, 32))

    def alone(*lanes: Lane) -> torch.Tensor:
        return fine_logits(cascade, lanes, low)(tokens)

    whole = alone(Lane(2, ["a red cat"], adapter), Lane(-1, ["a red cat"]), Lane(0, ["never said"]))
    parts = 2 * alone(Lane(1, ["a red cat"], adapter)) - alone(Lane(1, ["a red cat"]))
    torch.testing.assert_close(whole, parts, atol=1e-3, rtol=1e-3)
    with attached(cascade.upscaler, adapter):
        torch.testing.assert_close(alone(Lane(1, ["a red cat"])), alone(Lane(1, ["a red cat"], None)))
    assert (alone(Lane(1, ["a red cat"], adapter)) - alone(Lane(1, ["a red cat"]))).abs().max() > 0.1


def test_the_same_seed_paints_the_same_large_picture(cascade: Cascade) -> None:
    lanes = [Lane(1.0, ["a red cat", "a blue boat"])]
    one, again = (paint_fine(cascade, lanes, lanes, 5, steps=2, fine_steps=2) for _ in range(2))
    assert one.shape == (2, 256, 256, 3)
    assert (one == again).all()
    assert (one != paint_fine(cascade, lanes, lanes, 6, steps=2, fine_steps=2)).any()

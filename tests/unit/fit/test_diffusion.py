"""The loss of diffusion models against float64, and what they hear and see against diffusers' own pipelines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from impasto_fit.diffusion.backbone import Diffusion
from impasto_fit.draws import Draws
from impasto_fit.errors import CheckpointError
from impasto_fit.opened import opened
from tests.helpers.checkpoints import write_json
from tests.helpers.fits import striped


def backbone(folder: Path) -> Diffusion:
    found = opened(folder)
    assert isinstance(found, Diffusion)
    return found


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_the_loss_by_hand(kind: str, twin: dict[str, Path]) -> None:
    """sd2 predicts v, the others the noise."""
    model = backbone(twin[kind])
    codes, said = torch.randn(2, 4, 16, 16), model.said(["a red house", "the rain"])
    found = float(model.loss(codes, said, Draws.of(0, "x", 0)))
    draws = Draws.of(0, "x", 0).torch
    t = torch.randint(1000, (2,), generator=draws)
    noise, x = torch.randn(codes.shape, generator=draws).double().numpy(), codes.double().numpy()
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = np.cumprod(1 - betas)[t.numpy()].reshape(-1, 1, 1, 1)
    noisy = kept**0.5 * x + (1 - kept) ** 0.5 * noise
    wanted = kept**0.5 * noise - (1 - kept) ** 0.5 * x if kind == "sd2" else noise
    answer = model.predict(torch.from_numpy(noisy).float(), t, said).double().numpy()
    np.testing.assert_allclose(found, ((answer - wanted) ** 2).mean(), rtol=1e-4)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_texts_are_heard_as_the_pipeline_hears_them(kind: str, twin: dict[str, Path]) -> None:
    model = backbone(twin[kind])
    found = model.said(["a red house", ""])
    if kind == "sd1":
        states = model.pipe.encode_prompt(["a red house", ""], "cpu", 1, False)[0]
    else:
        states, _, pooled, _ = model.pipe.encode_prompt(["a red house", ""], device="cpu")
        torch.testing.assert_close(found.pooled, pooled)
    torch.testing.assert_close(found.states, states)


def test_pictures_are_seen_as_the_pipeline_sees_them(twin: dict[str, Path]) -> None:
    model = backbone(twin["sd1"])
    picture = striped(0, 32, 32)
    seen = model.pipe.image_processor.preprocess(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)
    wanted = model.pipe.vae.encode(seen).latent_dist.mode() * model.pipe.vae.config.scaling_factor
    torch.testing.assert_close(model.codes([picture]), wanted)
    assert model.side == 32


def test_a_picture_is_painted_as_ddim_does(twin: dict[str, Path]) -> None:
    model = backbone(twin["sd2"])
    (found,) = model.paint(model.said(["a red house"]), seed=3)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    pipe = model.pipe("a red house", latents=latents, num_inference_steps=20, guidance_scale=7.5, output_type="np")
    np.testing.assert_allclose(found / 255, pipe.images[0], atol=0.02)


def test_folders_that_are_no_checkpoint(tmp_path: Path, twin: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match=r"has no readable model_index.json; give a folder as diffusers saves it"):
        opened(tmp_path)
    write_json(tmp_path / "model_index.json", {"_class_name": "FluxPipeline"})
    with pytest.raises(CheckpointError, match="is a FluxPipeline; fits know StableDiffusionPipeline, StableDiff"):
        opened(tmp_path)
    write_json(tmp_path / "model_index.json", {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "X"]})
    with pytest.raises(CheckpointError, match=r"can't be loaded \(.*; get it again"):
        opened(tmp_path)

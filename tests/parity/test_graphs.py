"""Every linked graph computes what eager torch computes with the same checkpoint, in both engines, at several sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from impasto_export.link import link
from tests.helpers import checkpoints
from tests.helpers.engines import ENGINES, Engine, relative_error, run, run_plain

TOLERANCE = 1e-4


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def eager_unet(seed: int, sample: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> Any:
    with torch.no_grad():
        return checkpoints.model("unet", seed)(sample, timestep, context, return_dict=False)[0].numpy()


def unet_inputs(lanes: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every lane at a timestep of its own, fractional ones included."""
    timestep = torch.linspace(0.0, 998.5, lanes) if lanes > 1 else torch.tensor([417.25])
    return noise(lanes, checkpoints.CHANNELS, height, width), timestep, noise(lanes, 32, 128)


def unet_feeds(inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> dict[str, Any]:
    names = ("sample", "timestep", "encoder_hidden_states")
    return {name: value.numpy() for name, value in zip(names, inputs, strict=True)}


@pytest.mark.parametrize("engine", ENGINES)
def test_text_encoder(engine: Engine, bundle: Path) -> None:
    ids = torch.randint(0, 514, (3, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = checkpoints.model("text_encoder", 1)(ids).last_hidden_state.numpy()
    (found,) = run(engine, bundle, "text_encoder", {"input_ids": ids.numpy()})
    assert relative_error(found, expected) <= TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_unet_at_any_batch_and_size(engine: Engine, bundle: Path) -> None:
    for lanes, height, width in ((1, 16, 16), (3, 12, 20)):
        inputs = unet_inputs(lanes, height, width)
        for runs in (run, run_plain):
            (found,) = runs(engine, bundle, "unet", unet_feeds(inputs))
            assert relative_error(found, eager_unet(1, *inputs)) <= TOLERANCE, (runs, lanes, height, width)


@pytest.mark.parametrize("engine", ENGINES)
def test_vae(engine: Engine, bundle: Path) -> None:
    vae, latents = checkpoints.model("vae", 1), noise(2, checkpoints.CHANNELS, 5, 7)
    image = noise(2, 3, 40, 56).clamp(-1, 1)
    with torch.no_grad():
        decoded, moments = vae.decode(latents, return_dict=False)[0], vae.encode(image).latent_dist
    (found,) = run(engine, bundle, "vae_decoder", {"latents": latents.numpy()})
    mean, logvar = run(engine, bundle, "vae_encoder", {"image": image.numpy()})
    assert relative_error(found, decoded.numpy()) <= TOLERANCE
    assert relative_error(mean, moments.mean.numpy()) <= TOLERANCE
    assert relative_error(logvar, moments.logvar.numpy()) <= TOLERANCE


@pytest.mark.parametrize(("dtype", "engine"), [(torch.bfloat16, "onnxruntime"), (torch.float32, "openvino")])
def test_second_checkpoint_through_the_same_skeleton(
    dtype: torch.dtype, engine: Engine, bundle: Path, tmp_path: Path
) -> None:
    other = link(checkpoints.save(tmp_path / "other", 2, dtype), tmp_path / "bundle").folder
    inputs = unet_inputs(1, 8, 8)
    model = checkpoints.model("unet", 2).to(dtype).float()
    with torch.no_grad():
        expected = model(*inputs, return_dict=False)[0].numpy()
    (found,) = run(engine, other, "unet", unet_feeds(inputs))
    assert relative_error(found, expected) <= TOLERANCE
    (first,) = run(engine, bundle, "unet", unet_feeds(inputs))
    assert relative_error(first, expected) > 0.1

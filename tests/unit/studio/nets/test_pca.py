"""The encoder written in closed form equals principal components computed the plain way.

Latents are of the order of 1 and reach 8. The GroupNorm and SiLU that the encoder passes through leave an error of
about 0.03, nearly all of it one constant; rounding the weights to fp16 adds 0.005, computing in fp16 about 0.13.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from studio import painter
from studio.nets.diffusion import LATENT_CHANNELS, new_vae
from studio.nets.pca import write_encoder
from studio.painter import Bytes
from studio.pictures import to_tensor

EXACT, STORED_IN_HALF, COMPUTED_IN_HALF = 0.05, 0.01, 0.25


@pytest.fixture(scope="module")
def images() -> Bytes:
    return np.stack([painter.paint(scene).image for scene in painter.training_scenes(16, seed=0)])


@pytest.fixture
def vae(images: Bytes) -> AutoencoderKL:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vae = new_vae("small")
    write_encoder(vae, images)
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Bytes) -> NDArray[np.float32]:
    """One row of latents a patch, [N * 256, 16]."""
    latents = vae.encode(to_tensor(images).to(vae.dtype)).latent_dist.mode().float()
    rows: NDArray[np.float32] = latents.permute(0, 2, 3, 1).reshape(-1, LATENT_CHANNELS).numpy()
    return rows


def components(images: Bytes) -> NDArray[np.float64]:
    """The first 16 principal components of all 8x8 patches, each divided by the root of its standard deviation."""
    pixels = images.astype(np.float64) / 127.5 - 1
    patches = pixels.reshape(-1, 16, 8, 16, 8, 3).swapaxes(2, 3).reshape(-1, 192)
    patches -= patches.mean(0)
    _, _, directions = np.linalg.svd(patches, full_matrices=False)
    values = patches @ directions[:LATENT_CHANNELS].T
    half_white = values / np.sqrt(values.std(0))
    scaled: NDArray[np.float64] = half_white / np.sqrt(half_white.var(0).mean())
    return scaled


def test_latents_are_principal_components(vae: AutoencoderKL, images: Bytes) -> None:
    latents, expected = encode(vae, images), components(images)
    signs = np.sign((latents * expected).sum(0))  # a direction and its opposite are equally principal
    np.testing.assert_allclose(latents, expected * signs, atol=EXACT)


def test_latents_survive_weights_stored_in_half_precision(vae: AutoencoderKL, images: Bytes) -> None:
    before = encode(vae, images[:4])
    np.testing.assert_allclose(encode(vae.half().float(), images[:4]), before, atol=STORED_IN_HALF)


def test_latents_survive_arithmetic_in_half_precision(vae: AutoencoderKL, images: Bytes) -> None:
    before = encode(vae, images[:1])
    np.testing.assert_allclose(encode(vae.half(), images[:1]), before, atol=COMPUTED_IN_HALF)


def test_the_code_is_deterministic_and_the_decoder_untouched(images: Bytes) -> None:
    torch.manual_seed(0)
    vae = new_vae("small")
    before = {name: value.clone() for name, value in vae.decoder.state_dict().items()}
    write_encoder(vae, images)
    assert all(torch.equal(value, before[name]) for name, value in vae.decoder.state_dict().items())
    with torch.no_grad():
        code = vae.encode(to_tensor(images[:1])).latent_dist
    torch.testing.assert_close(code.sample(), code.mode(), atol=0.02, rtol=0)

"""mini-muse's autoencoder is mini-diffusion's, in 0..1, with its latents rounded to the nearest of k-means' centres."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from studio import painter
from studio.nets.diffusion import new_vae, save_model
from studio.nets.pca import write_encoder
from studio.nets.vq import from_autoencoder, k_means, load_vq, nearest, restore, to_unit, tokens_of
from studio.painter import Bytes
from studio.pictures import to_images, to_tensor
from studio.reading.psnr import mean_psnr_db
from studio.recipes.vq import Crops

GAIN = torch.linspace(2, 0.5, 16)


@dataclass(frozen=True)
class Pair:
    """An autoencoder, and a VQModel made of it whose codes are the latents of one picture's patches."""

    picture: Bytes
    vae: AutoencoderKL
    vq: VQModel


@pytest.fixture(scope="module")
def pair() -> Pair:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = np.stack([painter.paint(scene).image for scene in painter.training_scenes(8, seed=0)])
    vae = new_vae("small").requires_grad_(False)
    write_encoder(vae, images)
    latents = vae.encode(to_tensor(images[:1])).latent_dist.mode()
    codebook = (latents * GAIN[:, None, None]).permute(0, 2, 3, 1).flatten(0, 2)
    return Pair(images[:1], vae, from_autoencoder(vae, GAIN, codebook))


def test_a_code_that_nobody_chose_moves_to_a_rare_patch() -> None:
    torch.manual_seed(0)
    kinds = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    rows = kinds.repeat_interleave(torch.tensor([9000, 60, 30, 10]), 0)  # the first centres are all of plain paper
    centres = k_means(rows, 6)
    torch.testing.assert_close(centres[nearest(kinds, centres)], kinds)


def test_the_nearest_code_is_the_nearest() -> None:
    torch.manual_seed(0)
    rows, codebook = torch.randn(100, 5), torch.randn(17, 5)
    distances = torch.cdist(rows, codebook)
    found = distances.gather(1, nearest(rows, codebook)[:, None])[:, 0]
    torch.testing.assert_close(found, distances.amin(1))  # of two as near as rounding goes, either


def test_its_latents_are_the_autoencoder_s_times_the_gain(pair: Pair) -> None:
    with torch.no_grad():
        expected = pair.vae.encode(to_tensor(pair.picture)).latent_dist.mode() * GAIN[:, None, None]
        latents = pair.vq.encode(to_unit(pair.picture)).latents
    torch.testing.assert_close(latents, expected, atol=0.01, rtol=0)


def test_a_picture_whose_patches_are_codes_is_decoded_as_by_the_autoencoder(pair: Pair) -> None:
    with torch.no_grad():
        expected = to_images(pair.vae.decode(pair.vae.encode(to_tensor(pair.picture)).latent_dist.mode()).sample)
    assert mean_psnr_db(expected, restore(pair.vq, pair.picture)) > 40


def test_tokens_are_what_diffusers_own_quantizer_says(pair: Pair) -> None:
    quantizer = pair.vq.quantize
    with torch.no_grad():
        _, _, (_, _, indices) = quantizer(pair.vq.encode(to_unit(pair.picture)).latents)
    tokens = tokens_of(pair.vq, pair.picture)
    assert tokens.shape == (1, 16, 16)
    torch.testing.assert_close(quantizer.embedding.weight[tokens.flatten()], quantizer.embedding.weight[indices])


def test_crops_lie_on_the_tokens_grid() -> None:
    tokens = torch.arange(256).view(1, 16, 16)
    patches = tokens[0].numpy().astype(np.uint8).repeat(8, 0).repeat(8, 1)
    crops = Crops(np.stack([patches] * 3, -1)[None], tokens, np.random.default_rng(0))
    pixels, drawn = crops.draw(5)
    assert pixels.shape == (5, 3, 64, 64)
    assert torch.equal((pixels[:, 0, ::8, ::8] * 255).round().long(), drawn)
    assert drawn[:, 0, 0].unique().numel() > 1


def test_saved_in_half_precision_it_forgets_where_it_lay(pair: Pair, tmp_path: Path) -> None:
    save_model(pair.vq, tmp_path / "vqvae")
    save_model(load_vq(tmp_path / "vqvae"), tmp_path / "vqvae")
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["config.json", "diffusion_pytorch_model.safetensors"]
    assert "_name_or_path" not in (tmp_path / "vqvae" / "config.json").read_text()
    again = VQModel.from_pretrained(tmp_path / "vqvae", dtype=torch.float32)
    assert again.config.lookup_from_codebook
    assert torch.equal(again.quantize.embedding.weight, pair.vq.quantize.embedding.weight.half().float())

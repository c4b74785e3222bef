"""The autoencoder of mini-muse: mini-diffusion's, its latents rounded to a codebook.

The distance between latents is that between pixels (each channel is multiplied by its deviation first, as the encoder
half whitens it). Pixels are 0..1 here, not -1..1, because AmusedPipeline's are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, VQModel
from safetensors.torch import load_file
from torch import Tensor

from studio.painter import Bytes
from studio.pictures import to_images, to_tensor
from studio.places import HERE

MUSE = HERE / "mini-muse"
PATCH = 8


def to_unit(images: Bytes) -> Tensor:
    """uint8 [N, H, W, 3] to float [N, 3, H, W] in 0..1."""
    return (to_tensor(images) + 1) / 2


def nearest(rows: Tensor, codebook: Tensor) -> Tensor:
    """The index of the codebook's [K, c] nearest entry to each row [n, c]."""
    half = 0.5 * codebook.pow(2).sum(1)
    return torch.cat([(part @ codebook.T - half).argmax(1) for part in rows.split(1024)])


def k_means(rows: Tensor, count: int, rounds: int = 16, sample: int = 150_000) -> Tensor:
    """`count` centres [count, c] of rows [n, c], each round on a fresh sample; a centre that nobody chose moves.

    It moves to a row that is far from its own centre, so rare patches get codes as well.
    """
    centres = rows[torch.randperm(len(rows))[:count]].clone()
    for _ in range(rounds):
        drawn = rows[torch.randperm(len(rows))[:sample]]
        chosen = nearest(drawn, centres)
        members = torch.bincount(chosen, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, chosen, drawn)
        far = (drawn - centres[chosen]).pow(2).sum(1) + 1e-9
        moved = drawn[torch.multinomial(far, count, replacement=True)]
        centres = torch.where((members > 0)[:, None], sums / members.clamp(min=1)[:, None], moved)
    return centres


@torch.no_grad()
def from_autoencoder(vae: AutoencoderKL, gain: Tensor, codebook: Tensor) -> VQModel:
    """A VQModel with `vae`'s encoder and decoder; its codebook [K, c] lies in the latents times `gain` [c]."""
    config = vae.config
    vq = VQModel(
        down_block_types=tuple(config.down_block_types),
        up_block_types=tuple(config.up_block_types),
        block_out_channels=tuple(config.block_out_channels),
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        sample_size=config.sample_size,
        num_vq_embeddings=len(codebook),
        norm_num_groups=config.norm_num_groups,
        scaling_factor=1.0,
        mid_block_add_attention=config.mid_block_add_attention,
        lookup_from_codebook=True,
        force_upcast=True,
    )
    weights = vae.encoder.state_dict()
    mode = vae.quant_conv.weight[: config.latent_channels, :, 0, 0]  # the rows that make the mean, not the variance
    for name in ("conv_out.weight", "conv_out.bias"):
        weights[name] = torch.tensordot(mode, weights[name], 1)
    weights["conv_out.bias"] += vae.quant_conv.bias[: config.latent_channels]
    weights["conv_in.bias"] = weights["conv_in.bias"] - weights["conv_in.weight"].sum((1, 2, 3))
    weights["conv_in.weight"] = 2 * weights["conv_in.weight"]
    vq.encoder.load_state_dict(weights)
    vq.quant_conv.weight.copy_(torch.diag(gain)[..., None, None])
    vq.quant_conv.bias.zero_()
    vq.quantize.embedding.weight.copy_(codebook)
    vq.post_quant_conv.weight.copy_(vae.post_quant_conv.weight / gain[:, None, None])
    vq.post_quant_conv.bias.copy_(vae.post_quant_conv.bias)
    vq.decoder.load_state_dict(vae.decoder.state_dict())
    vq.decoder.conv_out.weight.mul_(0.5)
    vq.decoder.conv_out.bias.mul_(0.5).add_(0.5)
    return vq.requires_grad_(False)


@torch.no_grad()
def tokens_of(vq: VQModel, images: Bytes) -> Tensor:
    """int64 [N, H / 8, W / 8]."""
    codebook = vq.quantize.embedding.weight
    parts = []
    for part in np.array_split(images, max(1, len(images) // 32)):
        latents = vq.encode(to_unit(part).to(vq.device)).latents.permute(0, 2, 3, 1)
        parts.append(nearest(latents.flatten(0, 2), codebook).view(latents.shape[:3]).cpu())
    return torch.cat(parts)


def decode(vq: VQModel, tokens: Tensor) -> Tensor:
    """Pixels [N, 3, H, W] in 0..1, or a little beyond, as AmusedPipeline has them decoded."""
    shape = (*tokens.shape, vq.config.latent_channels)
    pixels: Tensor = vq.decode(tokens, force_not_quantize=True, shape=shape).sample
    return pixels


@torch.no_grad()
def restore(vq: VQModel, images: Bytes) -> Bytes:
    """Pictures through their tokens and back."""
    parts = tokens_of(vq, images).split(16)
    return np.concatenate([to_images(2 * decode(vq, part.to(vq.device)) - 1) for part in parts])


def load_vq(folder: Path = MUSE / "vqvae") -> VQModel:
    """In fp32; built from its configuration, so that saving it again doesn't note which folder it came from."""
    vq = VQModel.from_config(VQModel.load_config(folder))
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    vq.load_state_dict({name: value.float() for name, value in weights.items()})
    return vq.requires_grad_(False).eval()

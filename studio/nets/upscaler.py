"""mini-muse's second stage: Muse's network over the tokens of 256 x 256 pixels, where it lies, how it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AmusedPipeline, VQModel
from safetensors.torch import load_file
from torch import Tensor, nn

from impasto_export.tracing.upscaler import Attention, MuseUpscaler
from studio.nets.muse import SPARE
from studio.nets.vq import MUSE, load_vq

FINE_SIDE = 256
UPSCALER = MUSE / "upscaler"
FINE_VQ = MUSE / "upscaler_vqvae"
PATCH = 2
LIKING = 2.0  # how much a head likes its own place at the start; e^1.9 less for the next one


@dataclass(frozen=True)
class Shape:
    """`hidden` wide; `low` layers over the base's tokens, `layers` over the fine ones, `embed` numbers a token."""

    hidden: int = 256
    low: int = 2
    layers: int = 5
    mlp: int = 640
    embed: int = 64


def new_upscaler(codebook: Tensor, low_codebook: Tensor, text: int, shape: Shape) -> MuseUpscaler:
    """For codes that look as these do [codes, c] and [low codes, c']."""
    upscaler: MuseUpscaler = MuseUpscaler(
        codebook_size=len(codebook),
        vocab_size=len(codebook) + SPARE,
        low_vocab_size=len(low_codebook) + SPARE,
        encoder_hidden_size=text,
        hidden_size=shape.hidden,
        num_attention_heads=shape.hidden // 32,
        num_low_layers=shape.low,
        num_layers=shape.layers,
        intermediate_size=shape.mlp,
        embed_dim=shape.embed,
        scale=FINE_SIDE // 128,
        patch=PATCH,
    )
    _start(upscaler, codebook, low_codebook)
    return upscaler


@torch.no_grad()
def _start(upscaler: MuseUpscaler, codebook: Tensor, low_codebook: Tensor) -> None:
    """Every layer starts as the identity, codes that look alike start alike, and half of the heads look at their own
    place: in the picture, and in the small one."""
    for name, weight in upscaler.named_parameters():
        if name.endswith(("to_out.0.weight", "ff.net.2.weight")):
            nn.init.zeros_(weight)
    for embedding, book in ((upscaler.embed, codebook), (upscaler.low_embed, low_codebook)):
        looks = _looks(book)
        nn.init.normal_(embedding.weight, std=0.3)
        embedding.weight[: len(looks), : looks.shape[1]] += looks
    looks = _looks(codebook)
    nn.init.normal_(upscaler.to_logits.weight, std=0.02)
    upscaler.to_logits.weight[:, : looks.shape[1]] += 0.2 * looks
    nn.init.zeros_(upscaler.to_logits.bias)
    for part in upscaler.modules():
        if isinstance(part, Attention):
            for bias in (part.to_q.bias, part.to_k.bias):
                nn.init.zeros_(bias)
                heads = bias.view(part.heads, -1)
                heads[: part.heads // 2, : heads.shape[1] // 4] = LIKING


def _looks(codebook: Tensor) -> Tensor:
    looks = (codebook - codebook.mean(0)) / codebook.std()
    return torch.cat([looks, looks.pow(2).sum(1, keepdim=True) / looks.shape[1]], 1)


@dataclass(frozen=True)
class Cascade:
    """Both stages of mini-muse, in fp32."""

    base: AmusedPipeline
    upscaler: MuseUpscaler
    vq: VQModel


def load_upscaler(folder: Path = UPSCALER) -> MuseUpscaler:
    """In fp32; built from its configuration, so that saving it again doesn't note which folder it came from."""
    upscaler: MuseUpscaler = MuseUpscaler.from_config(MuseUpscaler.load_config(folder))
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    upscaler.load_state_dict({name: value.float() for name, value in weights.items()})
    upscaler.requires_grad_(False).eval()
    return upscaler


def load_cascade(base: AmusedPipeline, upscaler: Path = UPSCALER, vq: Path = FINE_VQ) -> Cascade:
    return Cascade(base, load_upscaler(upscaler), load_vq(vq))

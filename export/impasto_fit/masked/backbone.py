"""A masked-token checkpoint in diffusers' layout of aMUSEd, with a second stage where the folder has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, VQModel
from torch import Tensor, nn

from impasto_export.tracing.upscaler import MuseUpscaler
from impasto_fit.backbone import Said
from impasto_fit.draws import Draws
from impasto_fit.masked.decode import unmask
from impasto_fit.masked.loss import cross_entropy, hide
from impasto_fit.nets.precision import half_precision
from impasto_fit.pictures import Picture, picture_of
from impasto_fit.provenance import digest_of

PIPELINES = ("AmusedPipeline",)
AESTHETIC = 6.0  # with the sizes of a picture, what aMUSEd's pipeline says of it
STEPS, GUIDANCE = 12, 10.0  # aMUSEd's own
BATCH = 8  # pictures that are encoded at a time
CODES_AT_ONCE = 1024


@dataclass(frozen=True)
class Fine:
    """The second stage, and the VQ of its larger pictures."""

    upscaler: MuseUpscaler
    vq: VQModel

    @property
    def mask(self) -> int:
        return int(self.upscaler.config.vocab_size - 1)


@dataclass(frozen=True)
class Masked:
    """A pipeline in float32, frozen."""

    pipe: Any
    digest: str
    fine: Fine | None = None
    graph: str = "transformer"

    @classmethod
    def open(cls, folder: Path, device: str = "cpu") -> Masked:
        pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True).to(device)
        pipe.set_progress_bar_config(disable=True)
        fine = None
        if (folder / "upscaler").is_dir():
            upscaler = MuseUpscaler.from_pretrained(folder / "upscaler", dtype=torch.float32).to(device)
            fine = Fine(upscaler, VQModel.from_pretrained(folder / "upscaler_vqvae", dtype=torch.float32).to(device))
        for part in (pipe.transformer, pipe.vqvae, pipe.text_encoder, *([fine.upscaler, fine.vq] if fine else [])):
            part.requires_grad_(False).eval()
        weights = sorted(path for part in ("transformer", "upscaler") for path in (folder / part).glob("*.safetensors"))
        return cls(pipe, digest_of(*weights) if weights else "", fine)

    @property
    def module(self) -> nn.Module:
        transformer: nn.Module = self.pipe.transformer
        return transformer

    @property
    def side(self) -> int:
        return int(self.pipe.transformer.config.sample_size * pixels_a_token(self.pipe.vqvae))

    @property
    def device(self) -> torch.device:
        device: torch.device = self.pipe.transformer.device
        return device

    @property
    def mask(self) -> int:
        return int(self.pipe.transformer.config.vocab_size - 1)

    def codes(self, pictures: Sequence[Picture]) -> Tensor:
        return tokens_of(self.pipe.vqvae, pictures)

    @torch.no_grad()
    def said(self, prompts: Sequence[str]) -> Said:
        tokenizer = self.pipe.tokenizer
        batch = tokenizer(
            list(prompts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        found = self.pipe.text_encoder(batch.input_ids.to(self.device), output_hidden_states=True)
        return Said(found.hidden_states[-2], found.text_embeds)

    def logits(self, tokens: Tensor, said: Said) -> Tensor:
        """[N, codes, h, w]."""
        side = float(tokens.shape[-1] * pixels_a_token(self.pipe.vqvae))
        told = torch.tensor([side, side, 0.0, 0.0, AESTHETIC], device=tokens.device).expand(len(tokens), -1)
        found: Tensor = self.pipe.transformer(tokens, said.states, said.pooled, told)
        return found

    def loss(self, codes: Tensor, said: Said, draws: Draws) -> Tensor:
        shown, hidden = hide(codes, self.mask, draws.torch)
        with half_precision(self.device.type):
            logits = self.logits(shown, said)
        return cross_entropy(logits, codes, hidden)

    @torch.no_grad()
    def paint(self, said: Said, seed: int) -> list[Picture]:
        n, size = len(said), self.pipe.transformer.config.sample_size
        both = self.said([""] * n) + said

        def logits(tokens: Tensor) -> Tensor:
            null, cond = self.logits(tokens.repeat(2, 1, 1), both).float().chunk(2)
            return null + GUIDANCE * (cond - null)

        empty = torch.full((n, size, size), self.mask, device=self.device)
        return self.decode(unmask(logits, empty, self.mask, torch.Generator().manual_seed(seed), STEPS, 2.0))

    def decode(self, tokens: Tensor) -> list[Picture]:
        return decode(self.pipe.vqvae, tokens)


def pixels_a_token(vq: VQModel) -> int:
    return int(2 ** (len(vq.config.block_out_channels) - 1))


@torch.no_grad()
def tokens_of(vq: VQModel, pictures: Sequence[Picture]) -> Tensor:
    """int64 [N, h, w]: of each patch the nearest code."""
    book, parts = vq.quantize.embedding.weight, []
    for i in range(0, len(pictures), BATCH):
        pixels = torch.from_numpy(np.stack(pictures[i : i + BATCH])).permute(0, 3, 1, 2).float() / 255
        latents = vq.encode(pixels.to(book.device)).latents.permute(0, 2, 3, 1)
        parts.append(nearest(latents.flatten(0, 2), book).view(latents.shape[:3]))
    return torch.cat(parts)


def nearest(rows: Tensor, book: Tensor) -> Tensor:
    """The index of the codebook's [K, c] nearest entry to each row [n, c]."""
    half = 0.5 * book.pow(2).sum(1)
    return torch.cat([(part @ book.T - half).argmax(1) for part in rows.split(CODES_AT_ONCE)])


@torch.no_grad()
def decode(vq: VQModel, tokens: Tensor) -> list[Picture]:
    shape = (*tokens.shape, vq.config.latent_channels)
    return [picture_of(one) for one in vq.decode(tokens, force_not_quantize=True, shape=shape).sample]

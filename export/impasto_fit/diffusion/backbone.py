"""A latent diffusion checkpoint in diffusers' layout: Stable Diffusion 1 and 2, SDXL, and what has their shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline
from torch import Tensor, nn
from torch.nn import functional as F

from impasto_fit.backbone import Said
from impasto_fit.draws import Draws
from impasto_fit.errors import CheckpointError
from impasto_fit.nets.precision import half_precision
from impasto_fit.pictures import Picture, picture_of
from impasto_fit.provenance import digest_of

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
STEPS, GUIDANCE = 20, 7.5  # of pictures that are painted on the way
BATCH = 8  # pictures that are encoded at a time


@dataclass(frozen=True)
class Diffusion:
    """A pipeline in float32, frozen. `schedule` adds noise as its training did."""

    pipe: Any
    schedule: DDPMScheduler
    digest: str
    graph: str = "unet"

    @classmethod
    def open(cls, folder: Path, device: str = "cpu") -> Diffusion:
        """
        Raises:
            CheckpointError: the UNet reads more than text, time and SDXL's sizes.
        """
        pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True).to(device)
        pipe.set_progress_bar_config(disable=True)
        config = pipe.unet.config
        if config.time_cond_proj_dim is not None or config.in_channels != pipe.vae.config.latent_channels:
            problem = "its UNet reads a guidance or a picture beside the latents"
            raise CheckpointError(f"{folder}: {problem}; give the checkpoint that it was made of")
        for part in (pipe.unet, pipe.vae, *encoders(pipe)):
            part.requires_grad_(False).eval()
        weights = sorted((folder / "unet").glob("*.safetensors"))
        digest = digest_of(*weights) if weights else ""
        return cls(pipe, DDPMScheduler.from_config(pipe.scheduler.config), digest)

    @property
    def module(self) -> nn.Module:
        unet: nn.Module = self.pipe.unet
        return unet

    @property
    def side(self) -> int:
        return int(self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor)

    @property
    def timesteps(self) -> int:
        return int(self.schedule.config.num_train_timesteps)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.pipe.unet.device
        return device

    @torch.no_grad()
    def codes(self, pictures: Sequence[Picture]) -> Tensor:
        """Scaled latents [N, C, h, w]: the middle of what the VAE says."""
        vae, parts = self.pipe.vae, []
        for i in range(0, len(pictures), BATCH):
            pixels = torch.from_numpy(np.stack(pictures[i : i + BATCH])).permute(0, 3, 1, 2).to(self.device)
            parts.append(vae.encode(pixels.float() / 127.5 - 1).latent_dist.mode())
        latents: Tensor = (torch.cat(parts) - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
        return latents

    @torch.no_grad()
    def said(self, prompts: Sequence[str]) -> Said:
        return self.read([self.tokens(tokenizer, prompts) for tokenizer in tokenizers(self.pipe)])

    def tokens(self, tokenizer: Any, prompts: Sequence[str]) -> Tensor:
        """int64 [N, L], as long as the text encoder reads."""
        batch = tokenizer(
            list(prompts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        ids: Tensor = batch.input_ids.to(self.device)
        return ids

    def read(self, tokens: Sequence[Tensor]) -> Said:
        """What the text encoders make of their tokens, with a gradient to what is trained in them."""
        if len(tokens) == 1 and not self.is_xl:
            return Said(self.pipe.text_encoder(tokens[0]).last_hidden_state)
        found = [
            encoder(ids, output_hidden_states=True) for encoder, ids in zip(encoders(self.pipe), tokens, strict=True)
        ]
        return Said(torch.cat([one.hidden_states[-2] for one in found], -1), found[-1].text_embeds)

    @property
    def is_xl(self) -> bool:
        return bool(self.pipe.unet.config.addition_embed_type == "text_time")

    def predict(self, noisy: Tensor, t: Tensor, said: Said) -> Tensor:
        """What the UNet says of noisy latents [N, C, h, w] at timesteps [N]."""
        added = None
        if self.is_xl:
            sizes = torch.tensor([self.side, self.side, 0, 0, self.side, self.side], device=self.device)
            added = {"text_embeds": said.pooled, "time_ids": sizes.expand(len(noisy), -1).float()}
        found: Tensor = self.pipe.unet(noisy, t, said.states, added_cond_kwargs=added).sample
        return found

    def loss(self, codes: Tensor, said: Said, draws: Draws) -> Tensor:
        t = torch.randint(self.timesteps, (len(codes),), generator=draws.torch)
        noise = torch.randn(codes.shape, generator=draws.torch)
        return self.errors(codes, said, t.to(self.device), noise.to(self.device)).mean()

    def errors(self, codes: Tensor, said: Said, t: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of each row [N], of the noise or of v, as the checkpoint predicts."""
        noisy = self.schedule.add_noise(codes, noise, t)
        with half_precision(self.device.type):
            found = self.predict(noisy, t, said)
        return F.mse_loss(found.float(), self.target(codes, noise, t), reduction="none").mean((1, 2, 3))

    def target(self, codes: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        kind = self.schedule.config.prediction_type
        if kind == "v_prediction":
            velocity: Tensor = self.schedule.get_velocity(codes, noise, t)
            return velocity
        return noise if kind == "epsilon" else codes

    @torch.no_grad()
    def paint(self, said: Said, seed: int) -> list[Picture]:
        """By DDIM in 20 steps, against the empty prompt."""
        scheduler = DDIMScheduler.from_config(self.pipe.scheduler.config)
        scheduler.set_timesteps(STEPS)
        n, config, vae = len(said), self.pipe.unet.config, self.pipe.vae
        shape = (n, config.in_channels, config.sample_size, config.sample_size)
        latents = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(self.device)
        both = self.said([""] * n) + said
        with half_precision(self.device.type):
            for t in scheduler.timesteps:
                null, cond = self.predict(latents.repeat(2, 1, 1, 1), t.expand(2 * n).to(self.device), both).chunk(2)
                guided = null.float() + GUIDANCE * (cond.float() - null.float())
                latents = scheduler.step(guided, t, latents).prev_sample
            pixels = vae.decode(latents / vae.config.scaling_factor + (vae.config.shift_factor or 0)).sample
        return [picture_of(one.float() / 2 + 0.5) for one in pixels]


def encoders(pipe: Any) -> list[Any]:
    """The text encoders, in the order of their states."""
    return [one for one in (pipe.text_encoder, getattr(pipe, "text_encoder_2", None)) if one is not None]


def tokenizers(pipe: Any) -> list[Any]:
    return [one for one in (pipe.tokenizer, getattr(pipe, "tokenizer_2", None)) if one is not None]

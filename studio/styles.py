"""Train adapters: a style from ONE picture, an object from four.

A picture alone teaches its content as well as its style. So half of every batch shows other contents: the frozen
base's own picture of another prompt, whose latents get the style picture's channel statistics (AdaIN, Huang 2017), is
the target at the noisiest steps, where layout is decided; the picture itself teaches the texture at the others.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from PIL import Image
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

import painter
from diffusion import encode, tokenise
from judge import Judge, Verdict, verdict
from model import CHECKPOINT, HERE, load_checkpoint, new_scheduler
from painter import Bytes, Scene
from quality import sample
from training import draw_curve, half_precision, one_cycle

FOLDER = HERE / "styles"
RANK = 16
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
LEARNING_RATE = 2e-3
SHIFT = 12
VIEWS = 32
EARLY = 600  # noisier than this, a step decides layout rather than texture


@dataclass(frozen=True)
class Adapter:
    """What to learn: the scenes that are painted, and the file format that the result is saved in."""

    name: str
    scenes: tuple[Scene, ...]
    peft_folder: bool = False

    @property
    def is_style(self) -> bool:
        return len(self.scenes) == 1


ADAPTERS: tuple[Adapter, ...] = (
    Adapter("stained-glass", (Scene("house", "red", "meadow", "glass", 7),)),
    Adapter("mosaic", (Scene("fish", "orange", "sea", "mosaic", 7),)),
    Adapter("halftone", (Scene("apple", "red", "sea", "halftone", 7),), peft_folder=True),
    Adapter("crosshatch", (Scene("cup", "blue", "meadow", "crosshatch", 7),)),
    Adapter("stipple", (Scene("mushroom", "red", "meadow", "stipple", 7),)),
    Adapter("neon", (Scene("boat", "pink", "sea", "neon", 7),)),
    Adapter(
        "rocket",
        (
            Scene("rocket", "red", "night", "flat", 1),
            Scene("rocket", "blue", "plain", "outline", 2),
            Scene("rocket", "green", "meadow", "poster", 3),
            Scene("rocket", "orange", "snow", "watercolour", 4),
        ),
        peft_folder=True,
    ),
)


def views(image: Bytes, rng: np.random.Generator, n: int) -> Bytes:
    """The picture n times, shifted a little over its own reflection, flipped half of the time."""
    side = image.shape[0]
    wide = np.pad(image, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="reflect")
    shifts = rng.integers(0, 2 * SHIFT + 1, (n, 2))
    crops = [wide[y : y + side, x : x + side] for y, x in shifts]
    return np.stack([crop[:, ::-1] if i % 2 else crop for i, crop in enumerate(crops)])


def adain(content: Tensor, style: Tensor) -> Tensor:
    """`content` [N, C, H, W] with the channel means and deviations of `style` [M, C, H, W]."""
    mean, std = content.mean((2, 3), keepdim=True), content.std((2, 3), keepdim=True)
    return (content - mean) / std * style.std((2, 3), keepdim=True).mean(0) + style.mean((2, 3), keepdim=True).mean(0)


def other_scenes(n: int, rng: np.random.Generator) -> list[Scene]:
    return painter.training_scenes(n, int(rng.integers(2**31)))


@dataclass
class Lesson:
    """One adapter in training on one pipeline."""

    adapter: Adapter
    pipe: StableDiffusionPipeline
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.scheduler: DDIMScheduler = new_scheduler()
        pictures = [painter.paint(scene).image for scene in self.adapter.scenes]
        stack = np.concatenate([views(p, self.rng, VIEWS // len(pictures)) for p in pictures])
        self.latents = encode(self.pipe.vae, stack).float()
        captions = [painter.caption(scene) for scene in self.adapter.scenes]
        self.contexts = self.context(captions).repeat_interleave(VIEWS // len(pictures), 0)
        unet: UNet2DConditionModel = self.pipe.unet
        unet.set_attn_processor(AttnProcessor())  # as in diffusion.py
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS, init_lora_weights="gaussian")
        self.model: PeftModel = get_peft_model(unet, config)

    @torch.no_grad()
    def context(self, captions: Sequence[str]) -> Tensor:
        states: Tensor = self.pipe.text_encoder(tokenise(self.pipe.tokenizer, list(captions))).last_hidden_state
        return states

    def loss(self, n: int) -> Tensor:
        picture = self.picture_loss(n)
        return picture + (self.content_loss(n) if self.adapter.is_style else self.prior_loss(n))

    def picture_loss(self, n: int) -> Tensor:
        which = torch.from_numpy(self.rng.integers(0, len(self.latents), n))
        latest = EARLY + 100 if self.adapter.is_style else 1000
        return self.v_loss(self.latents[which], self.contexts[which], torch.randint(latest, (n,)))

    def v_loss(self, latents: Tensor, context: Tensor, t: Tensor) -> Tensor:
        noise = torch.randn_like(latents)
        noisy = self.scheduler.add_noise(latents, noise, t)
        return F.mse_loss(self.model(noisy, t, context).sample, self.scheduler.get_velocity(latents, noise, t))

    def content_loss(self, n: int) -> Tensor:
        """Other contents in this style, at the noisy steps: the base's own guess in the style's statistics."""
        scenes = other_scenes(n, self.rng)
        styled = [replace(scene, style=self.adapter.scenes[0].style) for scene in scenes]
        t = torch.randint(EARLY, 1000, (n,))
        noise = torch.randn(n, *self.latents.shape[1:])
        clean = adain(self.guess(noise, self.context([painter.caption(s) for s in scenes])), self.latents)
        noisy = self.scheduler.add_noise(clean, noise, t)
        predicted = self.model(noisy, t, self.context([painter.caption(s) for s in styled])).sample
        return F.mse_loss(predicted, self.scheduler.get_velocity(clean, noise, t))

    @torch.no_grad()
    def guess(self, noise: Tensor, context: Tensor) -> Tensor:
        """The frozen base's one-step picture from pure noise."""
        last = torch.full((len(noise),), 999)
        alpha = self.scheduler.alphas_cumprod[999]
        with self.model.disable_adapter():
            v: Tensor = self.model(noise, last, context).sample
        clean: Tensor = alpha.sqrt() * noise - (1 - alpha).sqrt() * v
        return clean

    def prior_loss(self, n: int) -> Tensor:
        """Other prompts stay what they were."""
        context = self.context([painter.caption(scene) for scene in other_scenes(n, self.rng)])
        t = torch.randint(1000, (n,))
        which = torch.from_numpy(self.rng.integers(0, len(self.latents), n))
        noisy = self.scheduler.add_noise(self.latents[which], torch.randn_like(self.latents[which]), t)
        with torch.no_grad(), self.model.disable_adapter():
            target = self.model(noisy, t, context).sample
        return F.mse_loss(self.model(noisy, t, context).sample, target)


def train(lesson: Lesson, steps: int, batch: int) -> list[float]:
    weights = [p for p in lesson.model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0)
    losses: list[float] = []
    for step in track(range(steps), lesson.adapter.name, refresh_per_second=0.2):
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * one_cycle(step / steps, step, warmup=20)
        optimiser.zero_grad()
        with half_precision(lesson.pipe.device.type):
            loss = lesson.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def save(lesson: Lesson, folder: Path) -> None:
    """PEFT's folder or diffusers' file, each written by its own library; the pictures beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if lesson.adapter.peft_folder:
        lesson.model.save_pretrained(str(folder))
        (folder / "README.md").unlink()  # a form with nothing filled in
    else:
        state = get_peft_model_state_dict(lesson.model)
        layers = {key.removeprefix("base_model.model."): value.contiguous() for key, value in state.items()}
        metadata = lesson.model.peft_config["default"].to_dict()
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, unet_lora_adapter_metadata=metadata)
    for i, scene in enumerate(lesson.adapter.scenes):
        name = "picture.png" if lesson.adapter.is_style else f"picture-{i + 1}.png"
        Image.fromarray(painter.paint(scene).image).save(folder / name, optimize=True)


def wanted(adapter: Adapter, n: int, seed: int) -> list[Scene]:
    """Unseen base scenes with the learnt style, or with the learnt object, in place of their own."""
    scenes = painter.unseen_scenes(n, seed)
    taught = adapter.scenes[0]
    if adapter.is_style:
        return [replace(scene, style=taught.style) for scene in scenes]
    return [replace(scene, object=taught.object) for scene in scenes]


def assess(lesson: Lesson, n: int, sheet: Path) -> tuple[Verdict, Verdict]:
    """What the judge reads with and without the adapter, for the same prompts and noise."""
    scenes = wanted(lesson.adapter, n, seed=17)
    prompts = [painter.caption(scene) for scene in scenes]
    with_it = sample(lesson.pipe, prompts, seed=3)
    with lesson.model.disable_adapter():
        without = sample(lesson.pipe, prompts, seed=3)
    sheet.parent.mkdir(parents=True, exist_ok=True)
    painter.contact_sheet([*with_it[:8], *without[:8]], 8).save(sheet, optimize=True)
    judge = Judge.load()
    return verdict(judge.read(with_it), scenes), verdict(judge.read(without), scenes)


def main() -> None:
    names = [adapter.name for adapter in ADAPTERS]
    parser = argparse.ArgumentParser(description="Train the style and content adapters.")
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--judged", type=int, default=24)
    parser.add_argument("--base", type=Path, default=CHECKPOINT)
    options = parser.parse_args()
    for adapter in ADAPTERS:
        if adapter.name not in options.only:
            continue
        torch.manual_seed(0)
        lesson = Lesson(adapter, load_checkpoint(options.base, options.device), np.random.default_rng(0))
        losses = train(lesson, options.steps, options.batch)
        save(lesson, FOLDER / adapter.name)
        draw_curve(losses, adapter.name, FOLDER / adapter.name / "loss.png")
        with_it, without = assess(lesson, options.judged, FOLDER / adapter.name / "sheet.png")
        print(f"{adapter.name}: with {with_it}; without {without}", flush=True)


if __name__ == "__main__":
    main()

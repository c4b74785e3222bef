"""Train adapters: a style from ONE picture, an object from four.

One picture teaches its content as well as its style, and its style only where its content is. So most of what a style
is learnt from are other contents, painted flat, that are given the picture's texture (what a blur takes out of a part
of it that shows no object) and something of its colours: crude, but right at every step of the noise. The picture
itself, shifted, flipped and enlarged, is the rest.
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
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional as F

from studio import painter
from studio.nets.diffusion import encode, load_checkpoint, new_scheduler
from impasto_fit.nets.precision import half_precision
from studio.nets.tokenizer import tokenise
from studio.painter import Bytes, Scene
from studio.pictures import paint_all
from studio.places import CHECKPOINT, HERE
from studio.reading.judge import Judge, Verdict, verdict
from studio.reading.quality import sample
from studio.training.curve import draw_curve
from studio.training.loop import Budget, Loop
from studio.training.optimisers import Optimisers

RANK = 16
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
SHIFT = 12
STYLE_ZOOM = (1.0, 1.3)
OBJECT_ZOOM = (0.85, 1.0)  # an object is never cut
STYLE_VIEWS = 48
OBJECT_VIEWS = 240
TRANSFERS = 256
PLAIN_ROWS = 26 / 128  # of a style's picture: above its object
EMPTY = 0.1


@dataclass(frozen=True)
class Adapter:
    """What to learn: the scenes that are painted, and the file format that the result is saved in.

    For a style's transfers: `blur` in pixels parts texture from shapes, `strength` is the texture's, `colours` the
    share of the picture's colours; what is smaller than `grain` pixels in the content gives way to the texture.
    """

    name: str
    scenes: tuple[Scene, ...]
    peft_folder: bool = False
    blur: float = 8
    strength: float = 1.0
    colours: float = 0.4
    grain: int = 1

    @property
    def is_style(self) -> bool:
        return len(self.scenes) == 1

    @property
    def folder(self) -> Path:
        return HERE / ("styles" if self.is_style else "objects") / self.name


ADAPTERS: tuple[Adapter, ...] = (
    Adapter("stained-glass", (Scene("fish", "red", "plain", "glass", 7),), strength=1.25),
    Adapter("mosaic", (Scene("fish", "orange", "sea", "mosaic", 7),), strength=1.2, colours=0.6, grain=6),
    Adapter("stipple", (Scene("fish", "blue", "plain", "stipple", 7),), blur=4, strength=1.5),
    Adapter("halftone", (Scene("balloon", "red", "sunset", "halftone", 3),), True, blur=4, strength=2.0, colours=0.4),
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


def views(image: Bytes, rng: np.random.Generator, n: int, zoom: tuple[float, float]) -> Bytes:
    """The picture n times, shifted a little over its own reflection and zoomed, flipped half of the time."""
    side = image.shape[0]
    wide = Image.fromarray(np.pad(image, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="reflect"))
    seen = []
    for i in range(n):
        reach = side / rng.uniform(*zoom)
        x, y = rng.uniform(0, side + 2 * SHIFT - reach, 2)
        view = np.asarray(wide.resize((side, side), Image.Resampling.BICUBIC, box=(x, y, x + reach, y + reach)))
        seen.append(view[:, ::-1] if i % 2 else view)
    return np.stack(seen)


def texture(picture: Bytes, blur: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """What a blur takes out of the picture's plain rows, mirrored until it fills a picture, from a random place on."""
    side = picture.shape[0]
    blurred = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(blur)), np.float32)
    rows = (picture - blurred)[: round(PLAIN_ROWS * side)]
    down = np.concatenate([rows, rows[::-1]] * (side // len(rows) + 1))
    wide = np.pad(down, ((0, 0), (0, side - 1), (0, 0)), mode="reflect")
    y, x = rng.integers(0, len(wide) - side + 1), rng.integers(0, side)
    part: NDArray[np.float32] = wide[y : y + side, x : x + side]
    return part[:, ::-1] if rng.random() < 0.5 else part


def transfer(content: Bytes, picture: Bytes, adapter: Adapter, rng: np.random.Generator) -> Bytes:
    """`content` with the picture's texture, its channels' means and deviations moved towards the picture's (AdaIN)."""
    height, width, _ = content.shape
    coarse = Image.fromarray(content).reduce(adapter.grain).resize((width, height), Image.Resampling.NEAREST)
    pixels = np.asarray(coarse, np.float32)
    mean, std = pixels.mean((0, 1)), pixels.std((0, 1)) + 1e-3
    like = (pixels - mean) / std * picture.std((0, 1)) + picture.mean((0, 1))
    coloured = pixels + adapter.colours * (like - pixels)
    styled = coloured + adapter.strength * texture(picture, adapter.blur, rng)
    result: Bytes = np.clip(styled, 0, 255).astype(np.uint8)
    return result


@dataclass
class Lesson:
    """One adapter in training on one pipeline."""

    adapter: Adapter
    pipe: StableDiffusionPipeline
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.scheduler: DDIMScheduler = new_scheduler()
        captions, pictures = self.lessons()
        self.latents = encode(self.pipe.vae, pictures).float()
        self.contexts = self.context(captions)
        self.empty = self.context([""])[0]
        unet: UNet2DConditionModel = self.pipe.unet
        unet.set_attn_processor(AttnProcessor())  # as in diffusion.py
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS, init_lora_weights="gaussian")
        self.model: PeftModel = get_peft_model(unet, config)

    @torch.no_grad()
    def context(self, captions: Sequence[str]) -> Tensor:
        states: Tensor = self.pipe.text_encoder(tokenise(self.pipe.tokenizer, list(captions))).last_hidden_state
        return states

    def lessons(self) -> tuple[list[str], Bytes]:
        """Captions and pictures: views of those given, and a style's transfers or an object in all colours."""
        given = [painter.paint(scene).image for scene in self.adapter.scenes]
        zoom, count = (STYLE_ZOOM, STYLE_VIEWS) if self.adapter.is_style else (OBJECT_ZOOM, OBJECT_VIEWS)
        each = count // len(given)
        captions = [painter.caption(scene) for scene in self.adapter.scenes for _ in range(each)]
        pictures = np.concatenate([views(picture, self.rng, each, zoom) for picture in given])
        if not self.adapter.is_style:
            recoloured = [picture[..., self.rng.permutation(3)] for picture in pictures]
            brief = [f"a {self.adapter.scenes[0].object}"] * len(recoloured)
            return captions + brief, np.concatenate([pictures, np.stack(recoloured)])
        others = painter.training_scenes(TRANSFERS, int(self.rng.integers(2**31)))
        styled = [replace(scene, style=self.adapter.scenes[0].style) for scene in others]
        flat = paint_all([replace(scene, style="flat") for scene in others])
        transfers = np.stack([transfer(content, given[0], self.adapter, self.rng) for content in flat])
        return captions + [painter.caption(scene) for scene in styled], np.concatenate([pictures, transfers])

    def loss(self, n: int) -> Tensor:
        loss = self.picture_loss(n)
        return loss if self.adapter.is_style else loss + self.prior_loss(n // 3)

    def picture_loss(self, n: int) -> Tensor:
        which = torch.from_numpy(self.rng.integers(0, len(self.latents), n))
        context = self.contexts[which]
        if self.adapter.is_style:  # then it is in both lanes of the guidance, which makes nothing more of it
            context[torch.rand(n) < EMPTY] = self.empty
        t = torch.randint(1000, (n,))
        noise = torch.randn(n, *self.latents.shape[1:])
        noisy = self.scheduler.add_noise(self.latents[which], noise, t)
        velocity = self.scheduler.get_velocity(self.latents[which], noise, t)
        return F.mse_loss(self.model(noisy, t, context).sample, velocity)

    def prior_loss(self, n: int) -> Tensor:
        """Other prompts, and none, stay where the frozen base has them."""
        context = self.context([painter.caption(s) for s in painter.training_scenes(n, int(self.rng.integers(2**31)))])
        context[: n // 2] = self.empty
        t = torch.randint(1000, (n,))
        which = torch.from_numpy(self.rng.integers(0, len(self.latents), n))
        noisy = self.scheduler.add_noise(self.latents[which], torch.randn(n, *self.latents.shape[1:]), t)
        with torch.no_grad(), self.model.disable_adapter():
            target = self.model(noisy, t, context).sample
        return F.mse_loss(self.model(noisy, t, context).sample, target)


def train(lesson: Lesson, steps: int, batch: int, rate: float) -> list[float]:
    """The loss of every step."""
    weights = [p for p in lesson.model.parameters() if p.requires_grad]
    optimisers = Optimisers(torch.optim.AdamW(weights, lr=rate, weight_decay=0.0), clip=1.0)

    def loss() -> Tensor:
        with half_precision(lesson.pipe.device.type):
            return lesson.loss(batch)

    loop = Loop(lesson.adapter.name, Budget(steps), optimisers, warmup=20)
    loop.run(loss)
    return loop.losses


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
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--judged", type=int, default=24)
    parser.add_argument("--base", type=Path, default=CHECKPOINT)
    options = parser.parse_args()
    for adapter in ADAPTERS:
        if adapter.name not in options.only:
            continue
        torch.manual_seed(0)
        lesson = Lesson(adapter, load_checkpoint(options.base, options.device), np.random.default_rng(0))
        losses = train(lesson, options.steps, options.batch, options.rate)
        save(lesson, adapter.folder)
        draw_curve(losses, adapter.name, adapter.folder / "loss.png")
        with_it, without = assess(lesson, options.judged, adapter.folder / "sheet.png")
        print(f"{adapter.name}: with {with_it}; without {without}", flush=True)


if __name__ == "__main__":
    main()

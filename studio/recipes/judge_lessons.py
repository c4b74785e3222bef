"""What the judge learns from: paintings, what autoencoders make of them, and near misses, all with what is to be read.

Where nothing is to be read a name is `UNCLEAR`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np
import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor

from impasto_fit.nets.precision import half_precision
from studio.nets.vq import decode, tokens_of
from studio.painter import Bytes, Scene
from studio.painter.near_misses import miss_object, miss_style
from studio.pictures import SIDE, halved, to_images, to_tensor
from studio.reading.judge import UNCLEAR

NOISE = 0.5
LOST = (
    "stipple",
    "crosshatch",
    "neon",
    "mosaic",
    "halftone",
)  # whose marks are gone in coarse tokens; glass keeps its lead
SCRAMBLED = 0.35
REACH = 4  # tokens
WRONG = 0.06  # of a picture's tokens at most


@dataclass(frozen=True)
class Lesson:
    """images uint8 [N, 128, 128, 3], each with what is to be read in it."""

    images: Bytes
    scenes: tuple[Scene, ...]

    def __add__(self, other: Lesson) -> Lesson:
        return Lesson(np.concatenate([self.images, other.images]), self.scenes + other.scenes)


def every(work: Callable[[Scene, int], Bytes], scenes: Sequence[Scene], size: int = SIDE) -> Bytes:
    """`work` for each scene, in several processes."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return np.stack(list(pool.map(work, scenes, repeat(size), chunksize=32)))


def missed_styles(scenes: Sequence[Scene]) -> Lesson:
    """Objects and colours that can be read, in no style."""
    return Lesson(every(miss_style, scenes), tuple(replace(scene, style=UNCLEAR) for scene in scenes))


def missed_objects(scenes: Sequence[Scene]) -> Lesson:
    """Styles that can be read, of nothing."""
    return Lesson(every(miss_object, scenes), tuple(replace(scene, object=UNCLEAR) for scene in scenes))


@torch.no_grad()
def through(vae: AutoencoderKL, images: Bytes) -> Bytes:
    """What the autoencoder makes of pictures, their latents as noisy as sampled ones may be.

    A judge that has only seen paintings takes the decoder's roughness for a style.
    """
    parts = []
    for part in np.array_split(images, max(1, len(images) // 32)):
        with half_precision(vae.device.type):
            latents = vae.encode(to_tensor(part)).latent_dist.mode()
            strength = NOISE * torch.rand(len(latents), 1, 1, 1)
            latents += strength * latents.std((0, 2, 3), keepdim=True) * torch.randn_like(latents)
            parts.append(to_images(vae.decode(latents).sample.float()))
    return np.concatenate(parts)


def scramble(tokens: Tensor) -> Tensor:
    """[h, w] with most of the middle's tokens taken from up to `REACH` places away: an object in crumbs."""
    h, w = tokens.shape
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    inside = ((y - h / 2) ** 2 + (x - w / 2) ** 2 < (0.42 * h) ** 2) & (torch.rand(h, w) < 0.75)
    dy, dx = (torch.randint(-REACH, REACH + 1, (h, w)) * inside for _ in range(2))
    return tokens[(y + dy).clamp(0, h - 1), (x + dx).clamp(0, w - 1)]


@torch.no_grad()
def coarse(vq: VQModel, lesson: Lesson) -> Lesson:
    """Through tokens of 8 pixels, in which some styles' marks are lost; some pictures' tokens are scrambled."""
    tokens, scenes = tokens_of(vq, lesson.images), list(lesson.scenes)
    for i, scene in enumerate(scenes):
        if scene.style in LOST:
            scenes[i] = replace(scene, style=UNCLEAR)
        if torch.rand(()) < SCRAMBLED:
            tokens[i], scenes[i] = scramble(tokens[i]), replace(scenes[i], object=UNCLEAR)
    return Lesson(decoded(vq, tokens), tuple(scenes))


@torch.no_grad()
def fine(vq: VQModel, lesson: Lesson) -> Lesson:
    """Pictures of 256 px, every other one through its tokens, some of which are wrong: all marks survive that."""
    images, scenes = halved(lesson.images), list(lesson.scenes)
    tokens = tokens_of(vq, lesson.images[::2])
    for i, row in enumerate(tokens):
        if torch.rand(()) < SCRAMBLED / 3:
            tokens[i], scenes[2 * i] = scramble(row), replace(scenes[2 * i], object=UNCLEAR)
        elif torch.rand(()) < 0.5:
            wrong = torch.rand(row.shape) < WRONG * torch.rand(())
            tokens[i] = torch.where(wrong, torch.randint(vq.config.num_vq_embeddings, row.shape), row)
    images[::2] = halved(decoded(vq, tokens))
    return Lesson(images, tuple(scenes))


def decoded(vq: VQModel, tokens: Tensor) -> Bytes:
    with half_precision(vq.device.type):
        parts = [to_images(2 * decode(vq, part).float() - 1) for part in tokens.split(16)]
    return np.concatenate(parts)

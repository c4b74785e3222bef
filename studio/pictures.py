"""Painted pictures as tensors, painted once by several processes and kept under runs/."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from studio import painter
from studio.painter import Bytes, Scene
from studio.places import RUNS

SIDE = 128


def paint_all(scenes: Sequence[Scene], size: int = SIDE) -> Bytes:
    """Images uint8 [N, size, size, 3] in the order of the scenes."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return np.stack(list(pool.map(partial(_image, size=size), scenes, chunksize=64)))


def _image(scene: Scene, size: int) -> Bytes:
    return painter.paint(scene, size).image


def cached(name: str, scenes: Sequence[Scene], size: int = SIDE) -> Bytes:
    """`paint_all`, or what an earlier run painted of these very scenes."""
    identity = hashlib.sha256(repr((scenes, size)).encode()).hexdigest()[:12]
    path = RUNS / f"{name}-{identity}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, paint_all(scenes, size))
    images: Bytes = np.load(path)
    return images


def halved(images: Bytes) -> Bytes:
    """uint8 [N, H, W, 3] to [N, H / 2, W / 2, 3], the means of squares."""
    n, height, width, _ = images.shape
    means: Bytes = images.reshape(n, height // 2, 2, width // 2, 2, 3).mean((2, 4)).round().astype(np.uint8)
    return means


def to_tensor(images: Bytes) -> Tensor:
    """uint8 [N, H, W, 3] to float [N, 3, H, W] in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(pixels: Tensor) -> Bytes:
    """float [N, 3, H, W] in -1..1 to uint8 [N, H, W, 3]."""
    scaled = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte()
    images: Bytes = scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return images

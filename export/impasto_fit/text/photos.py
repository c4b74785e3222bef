"""Photographs as tensors of the size that a recipe paints them at."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from impasto_fit.pictures import Picture, unit


def squares(pictures: Sequence[Picture], side: int) -> list[Tensor]:
    """Each picture's middle square as [1, 3, side, side] in 0..1."""
    return [_square(picture, side) for picture in pictures]


def scaled(picture: Picture, short: int) -> Tensor:
    """[1, 3, H, W] in 0..1 with a short side of `short` px."""
    pixels = unit(picture)
    scale = short / min(pixels.shape[2:])
    height, width = (max(short, round(length * scale)) for length in pixels.shape[2:])
    return _resized(pixels, (height, width))


def _square(picture: Picture, side: int) -> Tensor:
    pixels = unit(picture)
    short = min(pixels.shape[2:])
    top, left = ((length - short) // 2 for length in pixels.shape[2:])
    return _resized(pixels[..., top : top + short, left : left + short], (side, side))


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)

"""Random squares of photographs, for a net to paint while it learns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from impasto_fit.pictures import Picture, unit


def squares(photos: Sequence[Picture], n: int, side: int, rng: np.random.Generator) -> Tensor:
    """float [n, 3, side, side] in 0..1: squares of any size above `side`, made smaller, half of them mirrored."""
    return torch.cat([_one(photos[rng.integers(len(photos))], side, rng) for _ in range(n)])


def _one(photo: Picture, side: int, rng: np.random.Generator) -> Tensor:
    short = min(photo.shape[:2])
    size = min(short, int(rng.uniform(side, max(side + 1, short))))
    y, x = (int(rng.integers(0, length - size + 1)) for length in photo.shape[:2])
    square = unit(photo[y : y + size, x : x + size][:, :: int(rng.choice((-1, 1)))])
    if size == side:
        return square
    return F.interpolate(square, (side, side), mode="bilinear", antialias=True, align_corners=False)

"""What several styles paint with: blurs, smooth noise, glazes, a shaking hand, cells."""

from dataclasses import replace
from itertools import product

import numpy as np
from PIL import Image, ImageFilter

from studio.painter.arrays import Floats
from studio.painter.view import SUPERSAMPLING, View


def blur(plane: Floats, radius: float) -> Floats:
    """Box blur of [H, W] in 0..1; the radius may be a fraction."""
    image = Image.fromarray((np.clip(plane, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.BoxBlur(max(radius, 0))), np.float32) / 255


def soften(picture: Floats, radius: float) -> Floats:
    """Gaussian blur of [H, W, 3]."""
    image = Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


def noise(rng: np.random.Generator, cells: int, size: int) -> Floats:
    """Smooth noise [size, size] in about -1..1 with `cells` bumps a side."""
    bumps = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(bumps.resize((size, size), Image.Resampling.BICUBIC), np.float32)


def mix(below: Floats, above: Floats, alpha: Floats | float) -> Floats:
    """`above` over `below`; alpha is [H, W] or a number."""
    alpha = alpha if isinstance(alpha, float) else alpha[..., None]
    return below + (above - below) * alpha


def wobbled(view: View, rng: np.random.Generator, pixels: float, cells: int) -> View:
    """The view with its contours shaken by smooth noise, as by a hand."""
    amount, side = pixels * view.unit * SUPERSAMPLING, view.size * SUPERSAMPLING
    row, column = np.indices((view.size, view.size), np.int32) * SUPERSAMPLING
    dx, dy = (np.round(amount * noise(rng, cells, view.size)).astype(np.int32) for _ in range(2))
    dx = np.clip(dx, -column, side - SUPERSAMPLING - column)
    dy = np.clip(dy, -row, side - SUPERSAMPLING - row)
    step = (dy * side + dx).repeat(SUPERSAMPLING, 0).repeat(SUPERSAMPLING, 1)
    return replace(view, labels=view.labels.ravel()[np.arange(side * side, dtype=np.int32).reshape(side, side) + step])


def grid(view: View) -> tuple[Floats, Floats]:
    """Pixel centres (x, y), each [H, W], in units of a 128 px picture."""
    y, x = ((np.indices((view.size, view.size)) + 0.5) / view.unit).astype(np.float32)
    return x, y


def cell_map(view: View, rng: np.random.Generator, pitch: float, jitter: float) -> tuple[Floats, Floats, Floats]:
    """Distances to the nearest and second nearest of jittered grid points, and a number in -1..1 of the nearest.

    All are [H, W]; pitch and jitter are in 128 px units, and jitter stays below half a pitch.
    """
    x, y = grid(view)
    column, row = (x // pitch).astype(int) + 1, (y // pitch).astype(int) + 1
    count = int(128 / pitch) + 4
    dx, dy = rng.uniform(-jitter, jitter, (2, count, count)).astype(np.float32)
    numbers = rng.uniform(-1, 1, (count, count)).astype(np.float32)
    nearest, second, number = np.full_like(x, 1e6), np.full_like(x, 1e6), np.zeros_like(x)
    for i, j in product((-1, 0, 1), repeat=2):
        r, c = row + i, column + j
        away = np.hypot(x - (c - 0.5) * pitch - dx[r, c], y - (r - 0.5) * pitch - dy[r, c])
        closer = away < nearest
        second = np.where(closer, nearest, np.minimum(second, away))
        number = np.where(closer, numbers[r, c], number)
        nearest = np.where(closer, away, nearest)
    return nearest, second, number

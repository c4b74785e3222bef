"""What looks are drawn with: palettes, contours, light on a relief, distances to a grid."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from studio.gallery.textures import blurred, brightness, floats, smooth_noise
from studio.painter.arrays import Floats

Colour = Sequence[float]


def ramp(plane: Floats, *colours: Colour) -> Floats:
    """A palette: 0 is the first colour, 1 the last, [H, W] to [H, W, 3]."""
    stops = np.linspace(0, 1, len(colours))
    table = np.asarray(colours, np.float32)
    return floats(np.stack([np.interp(plane, stops, table[:, i]) for i in range(3)], 2))


def mixed(below: Floats | Colour, above: Floats | Colour, share: Floats) -> Floats:
    """`above` laid over `below`, `share` [H, W] of it."""
    cover = np.clip(share, 0, 1)[..., None]
    return floats(np.asarray(below) * (1 - cover) + np.asarray(above) * cover)


def contours(photo: Floats, sigma: float = 1.0) -> Floats:
    """How much of an edge there is, 0..1, [H, W]."""
    grey = blurred(brightness(photo), sigma)
    steep = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    return floats(np.clip(steep / (np.percentile(steep, 96) + 1e-6), 0, 1))


def fractal(rng: np.random.Generator, shape: tuple[int, ...], scale: float, octaves: int = 4) -> Floats:
    """Noise with bumps of `scale` px and finer ones, spread over 0..1."""
    total = sum(smooth_noise(rng, shape[:2], max(scale / 2**i, 1.5)) / 2**i for i in range(octaves))
    total = floats(total)
    low, high = np.percentile(total, (2, 98))
    return floats(np.clip((total - low) / (high - low), 0, 1))


def ridges(rng: np.random.Generator, shape: tuple[int, ...], scale: float, octaves: int = 3) -> Floats:
    """Thin bright veins on nothing, 0..1."""
    total = np.zeros(shape[:2], np.float32)
    for i in range(octaves):
        total += (1 - np.clip(np.abs(smooth_noise(rng, shape[:2], max(scale / 2**i, 2))) * 3, 0, 1)) / 2**i
    return floats(np.clip(total / 1.2, 0, 1))


def lit(height: Floats, strength: float) -> Floats:
    """Light from the upper left on a relief, about 1 where it is flat."""
    return floats(1 + strength * (cv2.Sobel(height, cv2.CV_32F, 1, 0) + cv2.Sobel(height, cv2.CV_32F, 0, 1)))


def grid(shape: tuple[int, ...], rng: np.random.Generator, degrees: float = 0.0) -> tuple[Floats, Floats]:
    """Coordinates (x, y) in px from a random origin, turned."""
    y, x = np.indices(shape[:2], np.float32)
    dx, dy = rng.uniform(0, 64, 2)
    angle = np.deg2rad(degrees)
    c, s = np.cos(angle), np.sin(angle)
    return floats((x + dx) * c + (y + dy) * s), floats((y + dy) * c - (x + dx) * s)


def within(u: Floats, pitch: float) -> Floats:
    """Where in its period each coordinate is, -0.5..0.5."""
    return floats(u / pitch - np.round(u / pitch))


def shifted(photo: Floats, dx: Floats, dy: Floats) -> Floats:
    """The photograph seen through a pane that bends it, px."""
    y, x = np.indices(photo.shape[:2], np.float32)
    return floats(cv2.remap(photo, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))


def averaged(photo: Floats, row: Floats, column: Floats) -> Floats:
    """Every cell (row, column) in its mean colour."""
    r = (row - row.min()).astype(np.int64)
    c = (column - column.min()).astype(np.int64)
    label = (r * (int(c.max()) + 1) + c).ravel()
    count = np.maximum(np.bincount(label), 1)
    means = np.stack([np.bincount(label, photo[..., i].ravel()) / count for i in range(3)], 1)
    return floats(means[label].reshape(photo.shape))


def per_cell(row: Floats, column: Floats, rng: np.random.Generator) -> Floats:
    """One random number 0..1 for each cell."""
    r = (row - row.min()).astype(np.int64)
    c = (column - column.min()).astype(np.int64)
    return floats(rng.random((int(r.max()) + 1, int(c.max()) + 1))[r, c])

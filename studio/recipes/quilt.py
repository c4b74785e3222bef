"""Other contents in the marks of ONE picture, quilted from it (Efros and Freeman 2001, "Image Quilting").

What a blur leaves over has no structure larger than the blur: panes, stones and strokes fall apart. So blocks of the
picture's own marks are laid side by side, each the one that agrees best with its neighbours where they overlap and with
the content's tone, and cut along the path where they differ least.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from studio.painter.arrays import Bytes, Floats, Mask
from studio.painter.palette import LUMA, vivid
from studio.painter.scene import Scene
from studio.painter.view import look_at

OVERLAP = 3  # a block shares a part in so many with its neighbours
STRIDE = 4  # of the blocks that may be chosen
NEAR = 1.15  # and of these, one of those that cost at most so many times the least
PLAIN = 0.9  # of a block, for it to be chosen
TONE_WEIGHT = 0.35  # how much the content's tone counts beside the neighbours


@dataclass(frozen=True)
class Quilt:
    """How a picture's marks are read and laid.

    `block` is a block's side, `lines` the width of the contours, in pixels of a 128 px picture; `paper` is whether the
    marks are ink on the picture's lightest colour, else they are shade on colours. `chroma` is what the content's
    colours are multiplied with.
    """

    block: int
    lines: float
    paper: bool = False
    chroma: float = 1.2

    def laid(self, scene: Scene, given: Bytes, plain: Mask, rng: np.random.Generator) -> Bytes:
        """The scene, painted flat, with the marks of the picture `given` [h, h, 3], as large as that.

        Marks are taken from where it is `plain` [h, h], that is, where there is no object, whose contours aren't marks.
        """
        view = look_at(scene, len(given))
        picture = given.astype(np.float32) / 255
        marks, tone = self._read(picture)
        colours = np.clip(view.filled(vivid(view.colours, self.chroma)), 0, 1)
        wanted = _smooth(_tone(colours))
        side = round(self.block * len(given) / 128)
        shade = quilted(marks, _matched(tone, wanted), plain, wanted, side, rng)
        lines = view.edges(self.lines)
        darkest = np.percentile(picture @ LUMA, 2)
        dark = picture[picture @ LUMA <= darkest].mean(0)
        if self.paper:
            ink = colours * view.mask[..., None] + dark * (1 - view.mask[..., None])
            below = np.percentile(picture.reshape(-1, 3), 90, 0)
            result = below + (ink - below) * np.clip(1 - shade, 0, 1)[..., None]
        else:
            result = dark + (colours * np.maximum(shade, 1)[..., None] - dark) * np.minimum(shade, 1)[..., None]
        result = result + (dark - result) * lines[..., None]
        laid: Bytes = np.round(np.clip(result, 0, 1) * 255).astype(np.uint8)
        return laid

    def _read(self, picture: Floats) -> tuple[Floats, Floats]:
        """How light each pixel is beside what is around it [h, w], and the tone of that [h, w]."""
        light = picture @ LUMA
        if self.paper:
            return light / np.percentile(light, 90), _smooth(light)
        around = _ranked(light, self.block, 0.75)
        return np.clip(light / np.maximum(around, 0.05), 0, 1.3), around


def quilted(marks: Floats, tone: Floats, plain: Mask, wanted: Floats, side: int, rng: np.random.Generator) -> Floats:
    """Blocks of marks [h, w] laid over [H, W], those where `tone` [h, w] is like `wanted` [H, W] first.

    Blocks are taken from where it is plain, but for a small part of them. Raises ValueError if there are none.
    """
    height, width = wanted.shape
    overlap = max(side // OVERLAP, 2)
    step = side - overlap
    able = _windows(plain, side).mean((1, 2)) >= PLAIN
    if not able.any():
        raise ValueError(f"plain: no block of {side} x {side} pixels is free of the object; choose a smaller block")
    blocks = _windows(marks, side)[able]
    blocks = np.concatenate([blocks, blocks[:, :, ::-1]])
    tones = np.tile(_windows(tone, side)[able].mean((1, 2)), 2)
    from_left, from_top = _Strip.of(blocks[:, :, :overlap]), _Strip.of(blocks[:, :overlap])
    down, across = (-(-(length - overlap) // step) for length in (height, width))
    laid = np.zeros((down * step + overlap, across * step + overlap), np.float32)
    for row in range(down):
        for column in range(across):
            y, x = row * step, column * step
            cost = TONE_WEIGHT * (tones - wanted[y : y + side, x : x + side].mean()) ** 2
            there = laid[y : y + side, x : x + side]
            if column:
                cost = cost + from_left.off(there[:, :overlap])
            if row:
                cost = cost + from_top.off(there[:overlap])
            block = blocks[rng.choice(np.flatnonzero(cost <= NEAR * cost.min() + 1e-4))]
            kept = np.zeros((side, side), bool)
            if column:
                kept[:, :overlap] |= before_the_cut((block[:, :overlap] - there[:, :overlap]) ** 2)
            if row:
                kept[:overlap] |= before_the_cut(((block[:overlap] - there[:overlap]) ** 2).T).T
            laid[y : y + side, x : x + side] = np.where(kept, there, block)
    return laid[:height, :width]


@dataclass(frozen=True)
class _Strip:
    """One edge of all blocks [n, pixels], and the sum of its squares [n]."""

    pixels: Floats
    squares: Floats

    @classmethod
    def of(cls, strips: Floats) -> _Strip:
        flat = np.ascontiguousarray(strips.reshape(len(strips), -1), np.float32)
        return cls(flat, (flat * flat).sum(1))

    def off(self, laid: Floats) -> Floats:
        """The mean squared difference [n] of each from what is laid."""
        wanted = laid.ravel()
        off: Floats = (self.squares - 2 * self.pixels @ wanted + wanted @ wanted) / wanted.size
        return np.maximum(off, 0)


def before_the_cut(costs: Floats) -> Mask:
    """What lies left of the cheapest path from the top to the bottom of [h, w], which moves by one column a row."""
    height, width = costs.shape
    total = costs.astype(np.float64).copy()
    for row in range(1, height):
        wide = np.pad(total[row - 1], 1, constant_values=np.inf)
        total[row] += np.minimum(np.minimum(wide[:-2], wide[1:-1]), wide[2:])
    path = np.zeros(height, np.int64)
    path[-1] = total[-1].argmin()
    for row in range(height - 2, -1, -1):
        begin = max(path[row + 1] - 1, 0)
        path[row] = begin + total[row, begin : path[row + 1] + 2].argmin()
    left: Mask = np.arange(width)[None] < path[:, None]
    return left


def _windows(plane: Floats | Mask, side: int) -> Floats:
    """All squares [n, side, side] of [h, w], STRIDE apart."""
    found = sliding_window_view(plane, (side, side))[::STRIDE, ::STRIDE].reshape(-1, side, side)
    return found.astype(np.float32)


def _tone(colours: Floats) -> Floats:
    tone: Floats = (colours @ LUMA).astype(np.float32)
    return tone


def _smooth(plane: Floats) -> Floats:
    image = Image.fromarray((np.clip(plane, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(len(plane) / 32)), np.float32) / 255


def _ranked(plane: Floats, reach: int, rank: float) -> Floats:
    """Of each pixel's square of about `reach` pixels of a 128 px picture, the value that a `rank` of it is below."""
    half = round(reach * len(plane) / 256)
    image = Image.fromarray((np.clip(plane, 0, 1) * 255).astype(np.uint8)).reduce(2)
    size = half // 2 * 2 + 1
    found = image.filter(ImageFilter.RankFilter(size, round(rank * (size * size - 1))))
    height, width = plane.shape
    return np.asarray(found.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255


def _matched(tone: Floats, wanted: Floats) -> Floats:
    """`tone` with the values that `wanted` has, in its own order: of all tones some have blocks."""
    order: NDArray[np.int64] = tone.ravel().argsort().argsort()
    values: Floats = np.sort(wanted, axis=None)[order * wanted.size // tone.size]
    return values.reshape(tone.shape)

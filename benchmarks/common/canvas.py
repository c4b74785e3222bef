"""A drawing in units of pixels, drawn finer and scaled down, and round numbers for its axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

FINE = 3  # drawn so many times larger, then scaled down: smooth lines
INK, GRID, PAPER = (38, 42, 51), (228, 230, 235), (255, 255, 255)


class Canvas:
    """A drawing whose units are the finished picture's pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width * FINE, height * FINE), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def text(self, at: tuple[float, float], words: str, size: int = 13, anchor: str = "ls", fill: Colour = INK) -> None:
        font = ImageFont.load_default(size * FINE)
        self._draw.text((at[0] * FINE, at[1] * FINE), words, fill=fill, font=font, anchor=anchor)

    def line(self, points: Points, colour: Colour, width: float = 1.0, dash: float = 0.0) -> None:
        fine = [(x * FINE, y * FINE) for x, y in (_dashes(points, dash) if dash else points)]
        step = 2 if dash else 1
        for one in zip(fine[::step], fine[1::step], strict=False):
            self._draw.line(one, fill=colour, width=round(width * FINE))

    def dot(self, at: tuple[float, float], colour: Colour, radius: float = 3.2) -> None:
        x, y, r = at[0] * FINE, at[1] * FINE, radius * FINE
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def box(self, box: Box, fill: Colour) -> None:
        """A filled rectangle: left, top, right, bottom."""
        self._draw.rectangle([side * FINE for side in box], fill=fill)

    def save(self, path: Path) -> None:
        """As a PNG with twice as many pixels on each side, in 256 colours."""
        twice = (self.image.width // FINE * 2, self.image.height // FINE * 2)
        path.parent.mkdir(parents=True, exist_ok=True)
        small = self.image.resize(twice, Image.Resampling.LANCZOS)
        small.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def round_marks(highest: float, count: int = 5) -> list[float]:
    """0 to at least `highest` in about `count` steps of 1, 2 or 5 times a power of ten."""
    rough = highest / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [step * i for i in range(math.ceil(highest / step - 1e-9) + 1)]


def _dashes(points: Points, length: float) -> list[tuple[float, float]]:
    """Ends of dashes and gaps along a straight line from the first point to the last."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    count = max(1, round(math.hypot(x1 - x0, y1 - y0) / length))
    return [(x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count) for i in range(count + 1)]

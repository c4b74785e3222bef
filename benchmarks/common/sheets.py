"""Pictures in a grid whose axes are named, as PNG files that a repository can hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

Pixels = NDArray[np.uint8]

GAP, EDGE = 4, 8
LABEL, NAME = 13, 15  # sizes of letters
INK, PAPER = (38, 42, 51), (255, 255, 255)
MAX_BYTES = 400_000
COLOURS = (256, 128, 64, 32)


@dataclass(frozen=True)
class Axis:
    """What changes along a side of the grid, and its value in each row or column."""

    name: str
    labels: Sequence[str]


def grid(pictures: Sequence[Pixels], down: Axis, across: Axis) -> Image.Image:
    """Row by row, uint8 [H, W, 3] of one size. Raises ValueError unless there is one for each cell."""
    cells = list(product(range(len(down.labels)), range(len(across.labels))))
    height, width, _ = pictures[0].shape
    left = EDGE + NAME + 2 * GAP + round(max(_font(LABEL).getlength(label) for label in down.labels)) + GAP
    top = EDGE + NAME + GAP + LABEL + 2 * GAP
    size = (left + len(across.labels) * (width + GAP) + EDGE, top + len(down.labels) * (height + GAP) + EDGE)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text(((left + size[0]) / 2, EDGE), across.name, INK, _font(NAME), "mt")
    name = _upright(down.name)
    sheet.paste(name, (EDGE, (top + size[1] - name.height) // 2))
    for column, label in enumerate(across.labels):
        draw.text((left + column * (width + GAP) + width / 2, top - 2 * GAP), label, INK, _font(LABEL), "ms")
    for row, label in enumerate(down.labels):
        middle = top + row * (height + GAP) + height / 2
        draw.text((left - 2 * GAP, middle), label, INK, _font(LABEL), "rm")
    for (row, column), picture in zip(cells, pictures, strict=True):
        sheet.paste(Image.fromarray(picture), (left + column * (width + GAP), top + row * (height + GAP)))
    return sheet


def save(sheet: Image.Image, path: Path) -> None:
    """As a PNG of as many colours as MAX_BYTES allow."""
    for colours in COLOURS:
        file = BytesIO()
        sheet.quantize(colours, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        if file.tell() <= MAX_BYTES:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue())


def _upright(words: str) -> Image.Image:
    """Words that are read from below."""
    font = _font(NAME)
    strip = Image.new("RGB", (round(font.getlength(words)) + 2, NAME + GAP), PAPER)
    ImageDraw.Draw(strip).text((0, 0), words, INK, font, "lt")
    return strip.transpose(Image.Transpose.ROTATE_90)


def _font(size: int) -> FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, FreeTypeFont), "Pillow has FreeType"
    return font

"""Lay pictures out in rows on a sheet, some with a label above."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from impasto_client.gallery import INK, LABEL_PX, PAPER, fitted, font

EDGE, GAP = 24, 12


@dataclass(frozen=True)
class Tile:
    """A picture, and the label above it."""

    picture: Image.Image
    label: str = ""


def grid(tiles: Sequence[Tile]) -> list[list[Tile]]:
    """The tiles in rows that make about a square."""
    width, height = tiles[0].picture.size
    across = max(1, math.ceil(math.sqrt(len(tiles) * height / width)))
    return [list(tiles[start : start + across]) for start in range(0, len(tiles), across)]


def tiled(rows: Sequence[Sequence[Tile]], cell: int) -> Image.Image:
    """The sheet as an RGB picture; each picture's longer side is `cell` pixels, and columns are equally wide."""
    fitting = [[_fitted(tile.picture, cell) for tile in row] for row in rows]
    width = max(one.width for row in fitting for one in row)
    heights = [max(one.height for one in row) for row in fitting]
    heads = [LABEL_PX + GAP if any(tile.label for tile in row) else 0 for row in rows]
    across = 2 * EDGE - GAP + max(map(len, rows)) * (width + GAP)
    canvas = Image.new("RGB", (across, 2 * EDGE - GAP + sum(heads) + sum(heights) + GAP * len(rows)), PAPER)
    pen, y = ImageDraw.Draw(canvas), EDGE
    for row, pictures, head, height in zip(rows, fitting, heads, heights, strict=True):
        for place, (tile, picture) in enumerate(zip(row, pictures, strict=True)):
            middle = EDGE + place * (width + GAP) + width // 2
            pen.text((middle, y + LABEL_PX), fitted(tile.label, width), INK, font(LABEL_PX), anchor="ms")
            canvas.paste(picture, (middle - picture.width // 2, y + head + (height - picture.height) // 2))
        y += head + height + GAP
    return canvas


def _fitted(picture: Image.Image, cell: int) -> Image.Image:
    scale = cell / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)

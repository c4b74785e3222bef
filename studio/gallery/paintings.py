"""Paintings of the package gcompris-qt-data: whole ones, and jigsaw puzzles, put together again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from studio.gallery.resources import files

BOARD = (702, 515)  # px: what positions of pieces are fractions of
PIECE = re.compile(r'"pixmapfile"\s*:\s*"image/([^"]+\.webp)",\s*"x"\s*:\s*"([\d.]+)",\s*"y"\s*:\s*"([\d.]+)"')
WHOLE = (
    "Eglise_dAuvers-sur-Oise", "Gogh4", "PortraitOfPereTanguy", "Van_Gogh_The_Night_Cafe", "VincentVanGogh0012",
    "VincentVanGogh0013", "VincentVanGogh0019", "VincentVanGoghBridge",
)  # fmt: skip


@dataclass(frozen=True)
class Piece:
    picture: Image.Image
    x: float
    y: float  # of its middle, in fractions of the board

    @property
    def corner(self) -> tuple[int, int]:
        width, height = self.picture.size
        return max(0, round(self.x * BOARD[0] - width / 2)), max(0, round(self.y * BOARD[1] - height / 2))


def paintings(package: Path) -> dict[str, Image.Image]:
    """Name to picture, about 600 x 450 px."""
    details = files(package, "details", "image/*_background.webp")
    whole = {name: Image.open(details[f"{name}_background.webp"]).convert("RGB") for name in WHOLE}
    return {**whole, **dict(_puzzles(package))}


def _puzzles(package: Path) -> Iterator[tuple[str, Image.Image]]:
    pieces = files(package, "paintings", "image/*.webp")
    for board in files(package, "paintings", "board/*.qml").values():
        found = [
            (name, Piece(Image.open(pieces[name]).convert("RGBA"), float(x), float(y)))
            for name, x, y in PIECE.findall(board.read_text())
        ]
        if found:
            yield re.split(r"[_-][a-e]?\d", found[0][0])[0], together([piece for _, piece in found])


def together(pieces: list[Piece]) -> Image.Image:
    """The pieces at their places; the odd pixels between them are filled from around."""
    board = Image.new("RGBA", BOARD)
    for piece in pieces:
        board.alpha_composite(piece.picture, piece.corner)
    covered = board.getbbox()
    assert covered is not None
    pixels = np.asarray(board.crop(covered))
    inside = pixels[2:-2, 2:-2]
    holes = (inside[..., 3] < 250).astype(np.uint8)
    return Image.fromarray(cv2.inpaint(np.ascontiguousarray(inside[..., :3]), holes, 2, cv2.INPAINT_TELEA))

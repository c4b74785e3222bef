"""Painting of a photo: whole if it is small enough, else in tiles."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from impasto_server.families.feedforward.frame import Frame
from impasto_server.families.feedforward.styles import Style
from impasto_server.families.feedforward.tiles import Tiles
from impasto_server.steps import Ask

Pixels = NDArray[np.uint8]

# Returns each lane's picture in the canvas's size: float32 [3, H, W] in 0..1, not clipped, or uint8 [H, W, 3].
Paints = Generator[Ask, NDArray[np.float32], tuple[NDArray[np.generic], ...]]


def paint(canvas: Pixels, styles: Sequence[Style], frame: Frame, tiles: Tiles | None) -> Paints:
    """Paint the canvas, RGB [H, W, 3], in each of `styles`, one for each lane."""
    if tiles is not None and tiles.needed(*canvas.shape[:2]):
        return (yield from tiles.paint(canvas, styles))
    return (yield from whole(canvas, len(styles), frame))


def whole(canvas: Pixels, lanes: int, frame: Frame) -> Paints:
    """Paint the canvas whole, with one pass for each lane."""
    sample = channels_first(frame.around(canvas))
    found = []
    for lane in range(lanes):
        answer = yield Ask(sample, 0.0, lane, lanes, lane=lane)
        found.append(frame.within(answer.transpose(1, 2, 0), canvas).transpose(2, 0, 1))
    return tuple(found)


def channels_first(picture: Pixels) -> Pixels:
    """[H, W, 3] → [3, H, W], contiguous."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1))

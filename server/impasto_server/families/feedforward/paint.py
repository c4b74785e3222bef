"""How a photo is painted: whole where it is small enough, else in pieces."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from impasto_server.families.feedforward.styles import Style
from impasto_server.families.feedforward.tiles import Tiles
from impasto_server.steps import Ask

Pixels = NDArray[np.uint8]

LEAST = 64  # pixels of a side: what nets with mirrored borders of their own can have at the least
WHOLE = 4 << 20  # pixels of a picture that one pass paints

# The picture of each lane in the canvas's size: float32 [3, H, W] in 0..1, not clipped, or uint8 [H, W, 3].
Painting = Generator[Ask, NDArray[np.float32], tuple[NDArray[np.generic], ...]]


@dataclass(frozen=True)
class Frame:
    """What is put around a picture before it's painted, and cut off after: its own mirror image.

    `border` pixels on each side; on the right and below as many more as make a multiple of `multiple`, and LEAST at the
    least.
    """

    border: int
    multiple: int

    def around(self, canvas: Pixels) -> Pixels:
        """[H, W, 3] → [3, H', W'], contiguous."""
        height, width, _ = canvas.shape
        below, right = self._more(height), self._more(width)
        framed = cv2.copyMakeBorder(
            canvas, self.border, self.border + below, self.border, self.border + right, cv2.BORDER_REFLECT_101
        )
        return np.ascontiguousarray(framed.transpose(2, 0, 1))

    def within(self, painted: NDArray[np.float32], canvas: Pixels) -> NDArray[np.float32]:
        """What was painted of the canvas itself: [3, H, W]."""
        height, width, _ = canvas.shape
        return painted[:, self.border : self.border + height, self.border : self.border + width]

    def _more(self, side: int) -> int:
        framed = max(side + 2 * self.border, LEAST)
        return -(-framed // self.multiple) * self.multiple - side - 2 * self.border


def paint(canvas: Pixels, styles: Sequence[Style], frame: Frame, tiles: Tiles | None) -> Painting:
    """RGB [H, W, 3] in each of `styles`, one a lane."""
    if tiles is not None and canvas.shape[0] * canvas.shape[1] > WHOLE:
        return (yield from tiles.paint(canvas, styles))
    return (yield from whole(canvas, len(styles), frame))


def whole(canvas: Pixels, lanes: int, frame: Frame) -> Painting:
    """A pass for each lane."""
    sample = frame.around(canvas)
    found = []
    for lane in range(lanes):
        found.append(frame.within((yield Ask(sample, 0.0, lane, lanes, lane=lane)), canvas))
    return tuple(found)

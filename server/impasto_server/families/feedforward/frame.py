"""The frame: a mirrored border that is put around a picture before it is painted and cut off afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

LEAST = 64  # pixels per side: the least that nets with their own mirrored borders can take


@dataclass(frozen=True)
class Frame:
    """`border` pixels on each side; on the right and below more, until sides are multiples of `multiple` and at least
    LEAST.
    """

    border: int
    multiple: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """A picture's size with the frame."""
        return height + 2 * self.border + self._more(height), width + 2 * self.border + self._more(width)

    def around(self, canvas: Pixels) -> Pixels:
        """[H, W, 3] → [H', W', 3]; the same array if no frame is needed."""
        height, width, _ = canvas.shape
        if self.size(height, width) == (height, width):
            return canvas
        below, right = self.border + self._more(height), self.border + self._more(width)
        framed = cv2.copyMakeBorder(canvas, self.border, below, self.border, right, cv2.BORDER_REFLECT_101)
        return framed.astype(np.uint8, copy=False)

    def within(self, painted: NDArray[Any], canvas: Pixels) -> NDArray[Any]:
        """The part of [H', W', …] that belongs to the canvas."""
        height, width, _ = canvas.shape
        return painted[self.border : self.border + height, self.border : self.border + width]

    def _more(self, side: int) -> int:
        framed = max(side + 2 * self.border, LEAST)
        return -(-framed // self.multiple) * self.multiple - side - 2 * self.border

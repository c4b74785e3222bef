"""What is put around a picture before it's painted, and cut off after: its own mirror image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

LEAST = 64  # pixels of a side: what nets with mirrored borders of their own can have at the least


@dataclass(frozen=True)
class Frame:
    """`border` pixels on each side; on the right and below as many more as make a multiple of `multiple`, and LEAST at
    the least.
    """

    border: int
    multiple: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """With the frame."""
        return height + 2 * self.border + self._more(height), width + 2 * self.border + self._more(width)

    def around(self, canvas: Pixels) -> Pixels:
        """[H, W, 3] → [H', W', 3]; the same where there is nothing to put around it."""
        height, width, _ = canvas.shape
        if self.size(height, width) == (height, width):
            return canvas
        below, right = self.border + self._more(height), self.border + self._more(width)
        framed = cv2.copyMakeBorder(canvas, self.border, below, self.border, right, cv2.BORDER_REFLECT_101)
        return framed.astype(np.uint8, copy=False)

    def within(self, painted: NDArray[Any], canvas: Pixels) -> NDArray[Any]:
        """What of [H', W', …] was painted of the canvas itself."""
        height, width, _ = canvas.shape
        return painted[self.border : self.border + height, self.border : self.border + width]

    def _more(self, side: int) -> int:
        framed = max(side + 2 * self.border, LEAST)
        return -(-framed // self.multiple) * self.multiple - side - 2 * self.border

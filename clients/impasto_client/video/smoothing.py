"""Smooth the paintings of a film's frames, so that strokes stay where their content continues."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from impasto_client.video.flow import Motion

Pixels = NDArray[np.uint8]


class Smoother:
    """Smooths paintings in order, and keeps the last smoothed one.

    `share`, 0 to 1, is how much of that is kept where the motion is trusted:
    out = painting + share·trust·(last moved along the motion - painting).
    So what comes into sight has no ghost of what hid it.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._last: NDArray[np.float32] | None = None

    def next(self, painting: Pixels, motion: Motion | None) -> Pixels:
        """The painting RGB [H, W, 3], smoothed. `motion` is from the previous frame, None for the first."""
        new = painting.astype(np.float32)
        if self._last is not None and self._last.shape == new.shape and motion is not None and not motion.is_cut:
            kept = self._share * motion.trust_at(new.shape[1], new.shape[0])
            new += kept * (motion.carried(self._last) - new)
        self._last = new
        return np.clip(np.rint(new), 0, 255).astype(np.uint8)

"""Random squares of photographs, to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from studio.painter import Bytes
from studio.painter.arrays import Floats


@dataclass(frozen=True)
class Crops:
    """Squares of uint8 [H, W, 3], mirrored now and then, a little lighter or darker."""

    photos: Sequence[Bytes]
    rng: np.random.Generator

    def draw(self, n: int, side: int) -> Tensor:
        """float [n, 3, side, side] in 0..1."""
        return torch.from_numpy(np.stack([self._one(side) for _ in range(n)])).permute(0, 3, 1, 2).contiguous()

    def _one(self, side: int) -> Floats:
        photo = self.photos[self.rng.integers(len(self.photos))]
        short = min(photo.shape[:2])
        size = min(short, int(self.rng.uniform(side, max(side + 1, short))))
        y, x = (int(self.rng.integers(0, length - size + 1)) for length in photo.shape[:2])
        square = cv2.resize(photo[y : y + size, x : x + size], (side, side), interpolation=cv2.INTER_AREA)
        mirrored = square[:, :: int(self.rng.choice((-1, 1)))].astype(np.float32) / 255
        contrast, offset = self.rng.uniform(0.8, 1.2), self.rng.uniform(-0.08, 0.08)
        return np.clip((mirrored - 0.5) * contrast + 0.5 + offset, 0, 1).astype(np.float32)

"""Mean and variance over a whole picture, from one tile at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Exact = NDArray[np.float64]


@dataclass(frozen=True)
class Scaling:
    """The statistics that a norm needs: `mean` and `gain` = 1 / √(variance + ε), float32 [C]."""

    mean: Array
    gain: Array

    def with_style(self, vector: Array, at: int) -> tuple[Array, Array]:
        """scale and shift [C] for x * scale + shift, with γ at `at` in the style's vector and β after it."""
        channels = len(self.mean)
        gamma, beta = vector[at : at + channels], vector[at + channels : at + 2 * channels]
        scale = gamma * self.gain
        return scale, beta - self.mean * scale


class Moments:
    """Mean and variance of each channel. Tiles are merged in float64, after Chan, Golub and LeVeque (1979)."""

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._mean: Exact = np.zeros(channels)
        self._squares: Exact = np.zeros(channels)  # the sum of squared distances from the mean

    def add(self, tile: Array) -> None:
        """Add a tile [C, h, w]. Rows are summed in float32, exact enough for their width, and these sums in float64."""
        count = tile.shape[1] * tile.shape[2]
        mean = tile.sum(axis=2).sum(axis=1, dtype=np.float64) / count
        squares = np.einsum("chw,chw->ch", tile, tile).sum(axis=1, dtype=np.float64) - count * mean**2
        whole, away = self._count + count, mean - self._mean
        self._mean = self._mean + away * (count / whole)
        self._squares = self._squares + squares + away**2 * (self._count * count / whole)
        self._count = whole

    def scaling(self, epsilon: float) -> Scaling:
        """The scaling, with the biased variance."""
        variance = np.maximum(self._squares, 0) / self._count
        gain = 1 / np.sqrt(variance + epsilon)
        return Scaling(self._mean.astype(np.float32), gain.astype(np.float32))

"""Mean and variance over a whole picture, of which there is a tile at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Exact = NDArray[np.float64]


@dataclass(frozen=True)
class Scaling:
    """What a norm needs of the statistics: `mean` and 1 / √(variance + ε), float32 [C]."""

    mean: Array
    gain: Array

    def with_style(self, vector: Array, at: int) -> tuple[Array, Array]:
        """scale and shift [C], as x * scale + shift, with γ at a place of a vector and β behind it."""
        channels = len(self.mean)
        gamma, beta = vector[at : at + channels], vector[at + channels : at + 2 * channels]
        scale = gamma * self.gain
        return scale, beta - self.mean * scale


class Moments:
    """Of each channel; tiles are merged as Chan, Golub and LeVeque do (1979), in float64."""

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._mean: Exact = np.zeros(channels)
        self._squares: Exact = np.zeros(channels)  # of distances from the mean, summed

    def add(self, tile: Array) -> None:
        """[C, h, w]. Rows are summed in float32, which is exact enough for a tile's width, and those in float64."""
        count = tile.shape[1] * tile.shape[2]
        mean = tile.sum(axis=2).sum(axis=1, dtype=np.float64) / count
        squares = np.einsum("chw,chw->ch", tile, tile).sum(axis=1, dtype=np.float64) - count * mean**2
        whole, away = self._count + count, mean - self._mean
        self._mean = self._mean + away * (count / whole)
        self._squares = self._squares + squares + away**2 * (self._count * count / whole)
        self._count = whole

    def scaling(self, epsilon: float) -> Scaling:
        """With the biased variance."""
        variance = np.maximum(self._squares, 0) / self._count
        gain = 1 / np.sqrt(variance + epsilon)
        return Scaling(self._mean.astype(np.float32), gain.astype(np.float32))

"""How far pictures are from others: the peak signal over the noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

MOST_DB = 138.13  # for equal ones: finite, so that it can be averaged and written as JSON


def psnr_db(one: NDArray[Any] | Image, other: NDArray[Any] | Image, peak: float = 255) -> float:
    """Of two arrays or pictures of one shape, whose values span `peak`."""
    error = float(np.mean((np.asarray(one, np.float64) - np.asarray(other, np.float64)) ** 2))
    return min(MOST_DB, float(10 * np.log10(peak**2 / error))) if error else MOST_DB


def mean_psnr_db(pictures: NDArray[Any], others: NDArray[Any]) -> float:
    """Mean over the pictures [N, ...]."""
    return float(np.mean([psnr_db(one, other) for one, other in zip(pictures, others, strict=True)]))

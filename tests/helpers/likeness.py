"""Compare pictures that were computed in different batches."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from studio.reading.psnr import psnr_db


def assert_same(found: bytes, expected: bytes) -> None:
    """Assert that two PNGs differ by at most one 8-bit value: batches of different sizes round differently."""
    one, other = (np.asarray(Image.open(BytesIO(data)), np.int64) for data in (found, expected))
    assert one.shape == other.shape
    assert np.abs(one - other).max() <= 1


def range_db(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """PSNR in dB, with the range of `expected` as its peak."""
    return psnr_db(found, expected, peak=float(np.ptp(expected)))

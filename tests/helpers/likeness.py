"""When two pictures are the same, of which other batches were computed."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from studio.reading.psnr import psnr_db


def assert_same(found: bytes, expected: bytes) -> None:
    """PNGs, to one 8-bit value: a batch of another size is rounded otherwise."""
    one, other = (np.asarray(Image.open(BytesIO(data)), np.int64) for data in (found, expected))
    assert one.shape == other.shape
    assert np.abs(one - other).max() <= 1


def range_db(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """What is expected may have any range: that over the error's root mean square."""
    return psnr_db(found, expected, peak=float(np.ptp(expected)))

"""Encode pictures as files."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG of uint8 [H, W, 3] or [H, W]."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()

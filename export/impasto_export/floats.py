"""Numbers of safetensors files: check that they are finite, widen them to float32; bf16 comes as its bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOATS = ("F32", "F16", "BF16")
FLOAT32 = np.finfo(np.float32)


def finite(array: NDArray[Any], dtype: str) -> bool:
    """Whether all numbers are finite. In bf16's bits, an exponent of all ones is NaN or infinity."""
    if dtype == "BF16":
        return not bool(((array & 0x7F80) == 0x7F80).any())
    return bool(np.isfinite(array).all())


def float32(array: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """The array as float32; a bf16 number is the upper half of its float32."""
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def as_float(array: NDArray[Any], dtype: str) -> float:
    """A one-element tensor as a number."""
    flat = array.reshape(1)  # NumPy can't view a scalar's bits as a wider type
    return float((float32(flat, dtype) if dtype == "BF16" else flat)[0])

"""Encode values as 1-D tensors; values that NumPy would silently round, wrap or cut are refused."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from impasto_client.errors import InvalidRequest


def texts(name: str, *values: str) -> NDArray[Any]:
    """Texts as UTF-8 in an array of dtype object. Raises InvalidRequest for a value that is not text."""
    try:
        return np.array([_text(value).encode() for value in values], dtype=np.object_)
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{name}: character {error.start} can't be encoded; pass valid Unicode", name) from None
    except TypeError as error:
        raise InvalidRequest(f"{name}: {error}", name) from None


def flags(name: str, *values: bool) -> NDArray[Any]:
    """Booleans as an array. Raises InvalidRequest for a value that is neither true nor false."""
    strange = next((value for value in values if not isinstance(value, (bool, np.bool_))), None)
    if strange is not None:
        raise InvalidRequest(f"{name}: {shown(strange)} is neither true nor false; pass a bool", name)
    return np.array(values, dtype=np.bool_)


def numbers(name: str, values: Sequence[float], dtype: type[np.number[Any]]) -> NDArray[Any]:
    """Numbers as an array. Raises InvalidRequest where NumPy would round or wrap a value to make it fit."""
    try:
        if issubclass(dtype, np.integer):
            return np.array([_whole(value, np.iinfo(dtype)) for value in values], dtype=dtype)
        with np.errstate(over="ignore"):  # a too large float becomes inf, which the server refuses
            return np.array([_real(value) for value in values], dtype=dtype)
    except (TypeError, OverflowError) as error:
        raise InvalidRequest(f"{name}: {error}", name) from None


def shown(value: object) -> str:
    """The value for a message, cut if it is long."""
    try:
        return f"{value!r:.64}"
    except ValueError:  # an int of thousands of digits
        return f"a value of type {type(value).__name__}"


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{shown(value)} is not text; pass a str")
    return value


def _whole(value: object, bounds: np.iinfo[Any]) -> int:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{shown(value)} is not a whole number; pass one")
    try:
        whole = operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # an array of several
        raise TypeError(f"{shown(value)} is not a whole number; pass one") from None
    if not bounds.min <= whole <= bounds.max:
        raise OverflowError(f"{shown(value)} does not fit in {bounds.bits} bits; pass {bounds.min} to {bounds.max}")
    return whole


def _real(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        raise TypeError(f"{shown(value)} is not a number; pass one")
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):  # an array of several
        raise TypeError(f"{shown(value)} is not a number; pass one") from None

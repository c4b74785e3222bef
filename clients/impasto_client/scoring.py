"""Encode requests to model `clip_score`, and decode its answers: how well pictures match texts or other pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_client.errors import InvalidRequest, ProtocolError
from impasto_client.options import Pictures
from impasto_client.picture import file_bytes
from impasto_client.tensor import texts
from impasto_client.wire import Tensors, values_of

SCORER = "clip_score"


def encode_score(
    images: Pictures, text: str | Sequence[str] | None, reference: Pictures | None
) -> dict[str, NDArray[Any]]:
    """The input tensors IMAGE BYTES [n] and, if given, TEXT BYTES [1 or n] and REFERENCE BYTES [1 or n].

    Raises InvalidRequest for what tensors can't carry; the server checks that exactly one of the two is given.
    """
    return {
        **_files("IMAGE", images),
        **({} if text is None else _texts("TEXT", text)),
        **({} if reference is None else _files("REFERENCE", reference)),
    }


def decode_score(tensors: Tensors, count: int) -> list[float]:
    """The scores from SCORE FP32 [count]. Raises ProtocolError."""
    scores = values_of(tensors, "SCORE", float)
    if len(scores) != count:
        raise ProtocolError(f"the server's answer has {len(scores)} values of SCORE for {count} pictures")
    return scores


def _files(name: str, pictures: Pictures) -> dict[str, NDArray[Any]]:
    several = pictures if isinstance(pictures, Sequence) and not isinstance(pictures, bytes) else [pictures]
    if not several:
        raise InvalidRequest(f"{name}: there is no picture; pass at least one", name)
    return {name: np.array([file_bytes(name, picture) for picture in several], dtype=np.object_)}


def _texts(name: str, text: str | Sequence[str]) -> dict[str, NDArray[Any]]:
    several = text if isinstance(text, Sequence) and not isinstance(text, str) else [text]
    if not several:
        raise InvalidRequest(f"{name}: there is no text; pass at least one", name)
    return {name: texts(name, *several)}

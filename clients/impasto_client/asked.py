"""A request as JSON and back: its words are those of the client's options, a picture is there by its digest.

{"prompt": "a boat", "adapters": [{"name": "neon", "weight": 0.8}], "steps": 25, "image": {"sha256": "…"}}
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_client.errors import InvalidRequest, MarkError
from impasto_client.field import Field
from impasto_client.fields import TABLE
from impasto_client.tensor import flags, numbers, shown, texts
from impasto_client.wire import Tensors

Words = Mapping[str, Any]
Pictures = Callable[[str, str], bytes]  # field and digest -> the picture's file

_NAMES, _WEIGHTS = "ADAPTER_NAMES", "ADAPTER_WEIGHTS"
_UNSAID = ("PREVIEW_EVERY", _WEIGHTS)  # the one changes no picture, the other stands beside its name
_FIELDS = {field.word: field for field in (Field("PROMPT", "BYTES", "text"), *TABLE.fields)}
_DTYPES: Mapping[str, type[np.number[Any]]] = {"FP32": np.float32, "INT32": np.int32, "INT64": np.int64}
_LISTS = ("style", "numbers", "pictures")


def words_of(tensors: Tensors) -> dict[str, Any]:
    """The request that these tensors are."""
    fields = [field for field in _FIELDS.values() if field.name in tensors and field.name not in _UNSAID]
    return {field.word: _said(field, tensors) for field in fields}


def tensors_of(words: Words, picture: Pictures) -> dict[str, NDArray[Any]]:
    """The tensors of a request; `picture` gives the files. Raises MarkError for words that are no request, and what
    `picture` raises.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for word, value in words.items():
        if word not in _FIELDS:
            raise MarkError(f"the mark's request has {shown(word)}, which this version doesn't know; update impasto")
        try:
            tensors |= dict(_asked(_FIELDS[word], value, picture))
        except (InvalidRequest, TypeError, KeyError, AttributeError):
            raise MarkError(f"the mark's request has a bad {word}, {shown(value)}; the mark is damaged") from None
    return tensors


def digests_in(words: Words) -> dict[str, str]:
    """The pictures of a request: digest -> its field's name on the wire."""
    found: dict[str, str] = {}
    for word, value in words.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping) and isinstance(one.get("sha256"), str):
                found.setdefault(one["sha256"], _FIELDS[word].name if word in _FIELDS else word)
    return found


def digest_of(file: bytes) -> str:
    """sha256 in hex."""
    return hashlib.sha256(file).hexdigest()


def shortest(value: float | np.float32) -> float:
    """The shortest number that is this one in float32: 0.8, not 0.800000011920929."""
    return float(str(np.float32(value)))


def _said(field: Field, tensors: Tensors) -> Any:
    if field.name == _NAMES:
        return _weighted(tensors)
    values = [_value(value, field) for value in tensors[field.name]]
    return values if field.kind in _LISTS else values[0]


def _weighted(tensors: Tensors) -> list[dict[str, Any]]:
    named = [{"name": name.decode()} for name in tensors[_NAMES].tolist()]
    weights = [shortest(weight) for weight in tensors[_WEIGHTS]] if _WEIGHTS in tensors else []
    return [one | {"weight": weight} for one, weight in zip(named, weights, strict=True)] if weights else named


def _value(value: Any, field: Field) -> Any:
    if field.kind in ("picture", "pictures"):
        return {"sha256": digest_of(value)}
    if isinstance(value, bytes):
        return value.decode()
    return shortest(value) if field.dtype == "FP32" else value.item()


def _asked(field: Field, value: Any, picture: Pictures) -> Iterator[tuple[str, NDArray[Any]]]:
    if field.name == _NAMES:
        yield _NAMES, texts(_NAMES, *(one["name"] for one in value))
        if weights := [one["weight"] for one in value if "weight" in one]:
            if len(weights) != len(value):
                raise TypeError("a weight is missing")
            yield _WEIGHTS, numbers(_WEIGHTS, weights, np.float32)
        return
    values = _listed(value) if field.kind in _LISTS else [value]
    match field.dtype:
        case "BYTES" if field.kind in ("picture", "pictures"):
            yield field.name, np.array([picture(field.name, one["sha256"]) for one in values], dtype=np.object_)
        case "BYTES":
            yield field.name, texts(field.name, *values)
        case "BOOL":
            yield field.name, flags(field.name, *values)
        case dtype:
            yield field.name, numbers(field.name, values, _DTYPES[dtype])


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise TypeError("it is not a list")
    return value

"""Encode a caller's options as tensors, field by field, as the table of fields says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_client.errors import InvalidRequest
from impasto_client.field import Field, Table
from impasto_client.guidance import told
from impasto_client.picture import file_bytes
from impasto_client.stages import names_by_stage
from impasto_client.tensor import flags, numbers, shown, texts

Encoded = dict[str, NDArray[Any]]

_DTYPES: Mapping[str, type[np.number[Any]]] = {"FP32": np.float32, "INT32": np.int32, "INT64": np.int64}


def encoded(words: Mapping[str, Any], table: Table) -> Encoded:
    """The tensors of options, which have the table's names. None is left out, and so are empty adapters and styles.
    Raises InvalidRequest.
    """
    tensors: Encoded = {}
    for word, field in table.options.items():
        if (value := words.get(word)) is not None:
            tensors |= (
                _guidance(value, words, table) if field.kind == "guidance" else _ENCODERS[field.kind](field, value)
            )
    return tensors


def one(field: Field, value: Any) -> Encoded:
    """The tensors of one field. Raises InvalidRequest."""
    return _ENCODERS[field.kind](field, value)


def _guidance(guidance: Any, words: Mapping[str, Any], table: Table) -> Encoded:
    said = told(guidance, table)
    for name, attribute in said.attributes.items():
        beside = words.get(table.by_name[name].word) if table.by_name[name].option else None
        if beside is not None:
            problem = f"got {shown(beside)} beside a {said.source}, which has its own {attribute}"
            raise InvalidRequest(f"{name}: {problem}; pass {said.source}({attribute}={shown(beside)})", name)
    tensors = {"GUIDANCE": texts("GUIDANCE", said.rule.name)}
    for name, value in said.fields.items():
        tensors |= one(table.by_name[name], value)
    return tensors


def _text(field: Field, value: Any) -> Encoded:
    return {field.name: texts(field.name, value)}


def _number(field: Field, value: Any) -> Encoded:
    return {field.name: numbers(field.name, [value], _DTYPES[field.dtype])}


def _flag(field: Field, value: Any) -> Encoded:
    return {field.name: flags(field.name, value)}


def _picture(field: Field, value: Any) -> Encoded:
    return {field.name: np.array([file_bytes(field.name, value)], dtype=np.object_)}


def _adapters(field: Field, value: Any) -> Encoded:
    """A name, or a mapping of names to weights; the weights are a separate field."""
    if isinstance(value, str):
        return {field.name: texts(field.name, value)} if value else {}
    if not isinstance(value, Mapping):
        fix = "pass a name or a dict of names to weights, e.g. {'neon': 0.9}"
        raise InvalidRequest(f"{field.name}: {shown(value)} does not name adapters; {fix}", field.name)
    weights = numbers("ADAPTER_WEIGHTS", list(value.values()), np.float32)
    return {field.name: texts(field.name, *value), "ADAPTER_WEIGHTS": weights} if value else {}


def _style(field: Field, value: Any) -> Encoded:
    names = _style_names(field.name, value)
    return {field.name: texts(field.name, *names)} if names else {}


def _style_names(field: str, style: Any) -> Sequence[str]:
    if isinstance(style, str):
        return [style] if style else []
    if isinstance(style, Mapping):
        return names_by_stage(style.items())
    if isinstance(style, Sequence) and not isinstance(style, bytes):
        return style
    raise InvalidRequest(f"{field}: {shown(style)} is not a style; pass a name, or one for each stage", field)


_ENCODERS: Mapping[str, Callable[[Field, Any], Encoded]] = {
    "text": _text,
    "number": _number,
    "flag": _flag,
    "picture": _picture,
    "adapters": _adapters,
    "style": _style,
}

"""Give the texts of a form the types that JSON would have given them, as the words' kinds say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from impasto_client.fields import TABLE
from impasto_gateway.errors import Refusal, wrong
from impasto_gateway.words import ALIASES, KINDS

_WHOLE = {field.word for field in TABLE.fields if field.dtype.startswith("INT")} | {"partial_images"}
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def typed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with values of their kinds. Raises Refusal, which names the field, for a text that can't be one."""
    return {word: _value(word, said) for word, said in fields.items()}


def seconds(word: str, text: str) -> float:
    """A header's number of seconds. Raises Refusal."""
    return _float(word, text)


def _value(word: str, said: Any) -> Any:
    ours = ALIASES.get(word, word)
    kind = KINDS.get(ours, "")
    if isinstance(said, Mapping):
        return {key: _float(word, one) for key, one in said.items()}
    if isinstance(said, list):
        return [_float(word, one) for one in said] if kind == "numbers" else said
    if ours in _WHOLE:
        return _whole(word, said)
    return _READERS.get(kind, _as_it_is)(word, said)


def _as_it_is(word: str, text: str) -> str:
    return text


def _whole(word: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _bad(word, text, "is not a whole number; send one") from None


def _float(word: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _bad(word, text, "is not a number; send a finite one")
    return value


def _flag(word: str, text: str) -> bool:
    if text.lower() not in _FLAGS:
        raise _bad(word, text, "is neither true nor false; send one of them")
    return _FLAGS[text.lower()]


def _json(word: str, text: str) -> Any:
    """An object or a list in JSON; anything else is a name."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return json.loads(text, parse_constant=lambda constant: _float(word, constant))
    except (ValueError, RecursionError):
        raise _bad(word, text, 'is no JSON; send e.g. {"neon": 0.9}') from None


_READERS: Mapping[str, Callable[[str, str], Any]] = {
    "number": _float,
    "numbers": _json,
    "flag": _flag,
    "adapters": _json,
    "style": _json,
}


def _bad(word: str, text: str, problem: str) -> Refusal:
    return wrong(word, f"{text[:64]!r} {problem}")

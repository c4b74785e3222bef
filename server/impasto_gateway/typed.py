"""Give the texts of a form the types that JSON would have given them, as the words' kinds say."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from impasto_client.fields import TABLE
from impasto_gateway.errors import Refusal, wrong
from impasto_gateway.strict import DIGITS, parsed
from impasto_gateway.words import ALIASES, KINDS

_WHOLE = {field.word for field in TABLE.fields if field.dtype.startswith("INT")} | {"partial_images"}
# Python reads more: 0_1, and digits of other scripts.
_WHOLE_NUMBER = re.compile(rf"-?[0-9]{{1,{DIGITS}}}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
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
    if not _WHOLE_NUMBER.fullmatch(text):
        raise _bad(word, text, "is not a whole number; send one")
    return int(text)


def _float(word: str, text: str) -> float:
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
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
        return parsed(text.encode())
    except Refusal as refusal:
        problem = refusal.message.removeprefix("body: ")
        raise _bad(word, text, f"is read as JSON: {problem}") from None


_READERS: Mapping[str, Callable[[str, str], Any]] = {
    "number": _float,
    "numbers": _json,
    "flag": _flag,
    "adapters": _json,
    "style": _json,
}


def _bad(word: str, text: str, problem: str) -> Refusal:
    return wrong(word, f"{text[:64]!r} {problem}")

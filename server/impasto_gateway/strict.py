"""JSON, read strictly: what two parsers could read in two ways is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn

from impasto_gateway.errors import Refusal
from impasto_gateway.settings import Limits

VALUES, DEPTH, DIGITS = 20_000, 16, 40


def parsed_json(raw: bytes, limits: Limits) -> dict[str, Any]:
    """The body as a JSON object. Raises Refusal (400) for all that `parsed` refuses."""
    found = parsed(raw, limits.prompt_bytes)
    if not isinstance(found, dict):
        _bad(f'it is a JSON {_kind(found)}; send an object, e.g. {{"prompt": "a red boat"}}')
    return found


def parsed(raw: bytes, text_bytes: int = 0) -> Any:
    """The value. Raises Refusal (400), whose message begins with `body: `, or with the name that stands twice.

    Refused is what parsers read in different ways, or choke on: NaN and infinite numbers, a name that stands twice,
    numbers of more than 40 digits, half a surrogate pair, more than 16 levels, more than 20,000 values. `text_bytes`
    are those that a text may have, which may be full of commas.
    """
    # Cheap, and before anything is built: a list of 32 MiB of `[],` would take a gigabyte.
    if sum(raw.count(mark) for mark in b",[{") > VALUES + text_bytes:
        _bad(f"it has more than {VALUES} values; send fewer")
    try:
        found = json.loads(
            raw.decode(),
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except UnicodeDecodeError as error:
        _bad(f"byte {error.start} is not UTF-8; send JSON in UTF-8")
    except json.JSONDecodeError as error:
        _bad(f"it is not JSON: {error.msg.lower()} at line {error.lineno}, column {error.colno}; send a JSON object")
    except RecursionError:
        _bad(f"it has more than {DEPTH} levels; send a flatter one")
    _check_levels(found)
    if b"\\u" in raw:
        _check_pairs(found)
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Refusal(400, f"{twice[:100]}: it stands there twice; send it once", "duplicate_field", twice[:100])
    return found


def _no_constant(text: str) -> NoReturn:
    _bad(f"{text} is not JSON; send a finite number")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")) or len(text) > 10 * DIGITS:
        _bad(f"the number {text[:40]} is too large; send a finite one")
    return value


def _int(text: str) -> int:
    if len(text) > DIGITS:
        _bad(f"the number {text[:40]}… has {len(text)} digits; send a smaller one")
    return int(text)


def _check_levels(found: Any) -> None:
    level = [found]
    for _ in range(DEPTH):
        level = [inner for one in level for inner in _inner(one)]
    if level:
        _bad(f"it has more than {DEPTH} levels; send a flatter one")


def _inner(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _check_pairs(found: Any) -> None:
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        _bad("a text has half of a surrogate pair (\\ud800 to \\udfff), which is no character; send whole ones")


def _kind(found: object) -> str:
    return {list: "array", str: "string", bool: "boolean", int: "number", float: "number"}.get(type(found), "null")


def _bad(problem: str) -> NoReturn:
    raise Refusal(400, f"body: {problem}", "invalid_json")

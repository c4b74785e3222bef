"""Adapters named in a prompt, as many tools write them: <lora:NAME:WEIGHT>, or <lora:NAME> for the weight 1."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from impasto_gateway.errors import Refusal, wrong

_TAG = re.compile(r"<lora:([^<>]*)>", re.IGNORECASE)
_OPEN = re.compile(r"<lora:", re.IGNORECASE)
_BLANKS = re.compile(r"[ \t]{2,}")


@dataclass(frozen=True)
class Tagged:
    """A prompt without its tags, and the adapters that they named, with weights."""

    prompt: str
    adapters: Mapping[str, float]


def tagged(prompt: str) -> Tagged:
    """Take the tags out of a prompt. Raises Refusal for a tag that can't be read, and for a name that comes twice."""
    adapters: dict[str, float] = {}
    for tag in _TAG.finditer(prompt):
        name, weight = _read(tag)
        if name in adapters:
            raise _bad(f"{tag[0][:64]!r} names an adapter that was named before; name it once")
        adapters[name] = weight
    rest = _TAG.sub("", prompt)
    if found := _OPEN.search(rest):
        raise _bad(f"{rest[found.start() :][:32]!r} has no end; write <lora:NAME:WEIGHT>")
    return Tagged(_BLANKS.sub(" ", rest).strip() if adapters else prompt, adapters)


def _read(tag: re.Match[str]) -> tuple[str, float]:
    name, *weights = tag[1].split(":")
    weight = _number(weights[0]) if len(weights) == 1 else math.nan if weights else 1.0
    if not name.strip() or not math.isfinite(weight):
        raise _bad(f"{tag[0][:64]!r} is not an adapter with a weight; write <lora:NAME:WEIGHT>, e.g. <lora:neon:0.8>")
    return name.strip(), weight


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _bad(problem: str) -> Refusal:
    return wrong("prompt", problem)

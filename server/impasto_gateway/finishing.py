"""What happens to a painted picture before it leaves: the operator's check, then marks, then a signature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from impasto_client import Generation
from impasto_client.marks import Mark, marked
from impasto_gateway.asking import Answer
from impasto_gateway.checks import checked
from impasto_gateway.errors import Refusal
from impasto_gateway.partials import enlarged
from impasto_gateway.parts import Parts
from impasto_gateway.wish import Wish


@dataclass(frozen=True)
class Finished:
    """A picture's file as it is sent. A painting of a photo has no seed; `score` is there if candidates were sorted."""

    data: bytes = field(repr=False)
    seed: int | None = None
    score: float | None = None


def finished(answer: Answer, wish: Wish, parts: Parts) -> list[Finished]:
    """The answer's pictures. This takes a while: call it in a thread. Raises Refusal where the check refuses one."""
    painted = [Finished(answer.data)]
    if isinstance(answer, Generation):
        painted = [Finished(one.data, one.seed, one.score) for one in answer.candidates]
    return [replace(one, data=_file(one, answer, wish, parts)) for one in painted]


def previewed(preview: bytes, wish: Wish, parts: Parts) -> bytes | None:
    """A preview's file, in the size and format that were asked for; None where the check refuses it: a picture that is
    half noise says little of the finished one, which is checked in its turn.
    """
    data = enlarged(preview, wish.size, wish.format)
    if parts.check is None:
        return data
    try:
        return checked(data, wish.prompt, parts.check).data
    except Refusal:
        return None


def _file(one: Finished, answer: Answer, wish: Wish, parts: Parts) -> bytes:
    data, changed = one.data, ""
    if parts.check is not None:
        passed = checked(data, wish.prompt, parts.check)
        data, changed = passed.data, str(parts.settings.check or "") if passed.changed else ""
    if wish.metadata and parts.settings.metadata:
        data = marked(data, Mark.of(wish.prompt, wish.options, answer, one.seed, changed))
    if parts.signer is not None:
        data = parts.signer.sign(data, wish.format, _source(wish.options))
    return data


def _source(options: Mapping[str, Any]) -> bytes | None:
    """The picture that this one was made of."""
    found: bytes | None = next((options[word] for word in ("photo", "picture", "image") if word in options), None)
    return found

"""What happens to a painted picture before it leaves: the operator's check, marks, a signature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from impasto_client import Generation
from impasto_client.marks import Mark, marked
from impasto_gateway.asking import Answer
from impasto_gateway.parts import Parts
from impasto_gateway.wishes import Wish


@dataclass(frozen=True)
class Finished:
    """A picture's file as it is sent. A painting of a photo has no seed; `score` is there if candidates were sorted."""

    data: bytes
    seed: int | None = None
    score: float | None = None


def finished(answer: Answer, wish: Wish, parts: Parts) -> list[Finished]:
    """The answer's pictures. This takes a while: call it in a thread. Raises Refusal where the check refuses one."""
    if isinstance(answer, Generation):
        painted = [Finished(one.data, one.seed, one.score) for one in answer.candidates]
    else:
        painted = [Finished(answer.data)]
    return [Finished(_marked(one, answer, wish, parts), one.seed, one.score) for one in painted]


def _marked(one: Finished, answer: Answer, wish: Wish, parts: Parts) -> bytes:
    data = one.data
    if wish.metadata and parts.settings.metadata:
        data = marked(data, Mark.of(wish.prompt, _asked(wish.options), answer, one.seed))
    if parts.signer is not None:
        data = parts.signer.sign(data, wish.format, _ingredient(wish.options))
    return data


def _asked(options: Mapping[str, Any]) -> dict[str, Any]:
    return dict(options)


def _ingredient(options: Mapping[str, Any]) -> bytes | None:
    """The picture that this one was made of."""
    found: bytes | None = next((options[word] for word in ("photo", "picture", "image") if word in options), None)
    return found

"""What travels between two processes about a request, as messages of a channel: it, its steps, its end.

A letter is a header, ready for JSON, and files, which go behind it as they are, one behind the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

from impasto_server.errors import ImpastoError
from impasto_server.job import Progress, Result
from impasto_server.request import Request

Outcome = Result | ImpastoError
Letter = tuple[dict[str, object], tuple[bytes, ...]]


def of_request(number: int, request: Request) -> Letter:
    values = request.values
    files = {name: value for name, value in values.items() if isinstance(value, bytes)}
    rest = {name: value for name, value in values.items() if name not in files}
    return {"number": number, "request": rest, "names": list(files), **_lengths(files.values())}, tuple(files.values())


def to_request(header: Mapping[str, Any], payload: bytes) -> Request:
    files = dict(zip(header["names"], _files(header, payload), strict=True))
    rest = {name: tuple(value) if isinstance(value, list) else value for name, value in header["request"].items()}
    return Request.of({**rest, **files})


def of_step(number: int, step: Progress) -> Letter:
    facts = {"step": step.step, "steps": step.steps, "eta_s": step.eta_s}
    return {"number": number, "progress": facts, **_lengths(step.previews)}, step.previews


def to_step(header: Mapping[str, Any], payload: bytes) -> Progress:
    return Progress(**header["progress"], previews=_files(header, payload))


def of_outcome(number: int, outcome: Outcome) -> Letter:
    if isinstance(outcome, ImpastoError):
        return {"number": number, "code": outcome.code, "message": str(outcome)}, ()
    facts = {"seeds": outcome.seeds, "scores": outcome.scores, "meta": outcome.meta}
    return {"number": number, "result": facts, **_lengths(outcome.images)}, outcome.images


def to_outcome(header: Mapping[str, Any], payload: bytes) -> Outcome:
    if "code" in header:
        return ImpastoError.of(header["code"], header["message"])
    facts = header["result"]
    scores = None if facts["scores"] is None else tuple(facts["scores"])
    return Result(_files(header, payload), tuple(facts["seeds"]), facts["meta"], scores)


def _lengths(files: Iterable[bytes]) -> dict[str, list[int]]:
    return {"lengths": [len(data) for data in files]}


def _files(header: Mapping[str, Any], payload: bytes) -> tuple[bytes, ...]:
    ends = list(accumulate(header["lengths"]))
    return tuple(payload[end - length : end] for end, length in zip(ends, header["lengths"], strict=True))

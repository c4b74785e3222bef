"""Answers by `Idempotency-Key`: the same key and body are painted once, and answered as often as they are sent."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response

from impasto_gateway.callers import Caller
from impasto_gateway.errors import Refusal

HEADER = "idempotency-key"
REPLAYED = "idempotent-replayed"  # a header of an answer that was given before
KEPT_S = 600.0
KEPT_BYTES = 256 << 20
KEY_CHARACTERS = 255
Work = Callable[[], Awaitable[Response]]


@dataclass
class Answer:
    """What a key was answered with, once `done`; `status` 0 if there was no answer to keep."""

    digest: str
    done: asyncio.Event = field(default_factory=asyncio.Event)
    until: float = 0.0
    status: int = 0
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""

    def again(self) -> Response:
        """The answer once more."""
        response = Response(self.body, self.status)
        response.raw_headers = [*self.headers, (REPLAYED.encode(), b"true")]
        return response


class Answers:
    """The answers of the last ten minutes, up to `kept_bytes` of them; the oldest make room.

    Only successes are kept: what was refused may be tried again. One gateway doesn't know what another has answered.
    """

    def __init__(
        self, kept_s: float = KEPT_S, kept_bytes: int = KEPT_BYTES, clock: Callable[[], float] = monotonic
    ) -> None:
        self._kept_s = kept_s
        self._kept_bytes = kept_bytes
        self._clock = clock
        self._answers: dict[tuple[str, str], Answer] = {}  # finished ones stand in the order in which they ended
        self._bytes = 0

    async def once(self, caller: Caller, key: str | None, body_digest: str, work: Work) -> Response:
        """The answer that `work` gives, or gave to this caller's key before. Without a key, `work` is done.

        Who comes while the work is under way waits for it. If it fails, or its caller leaves, the next one in line
        does it again. An answer that streams is not kept. Raises Refusal (400, 422), and whatever `work` raises.
        """
        if key is None:
            return await work()
        check_key(key)
        place = caller.name, key
        while True:
            self._forget()
            found = self._answers.get(place)
            if found is None:
                return await self._first(place, body_digest, work)
            if found.digest != body_digest:
                problem = "this key came with another request before; use a new key for each request"
                raise Refusal(422, f"{HEADER}: {problem}", "idempotency_error", None, "idempotency_error")
            if found.done.is_set():
                return found.again()
            await found.done.wait()

    async def _first(self, place: tuple[str, str], digest: str, work: Work) -> Response:
        answer = self._answers[place] = Answer(digest)
        try:
            response = await work()
            self._keep(answer, response)
            return response
        finally:
            del self._answers[place]
            if answer.status:
                self._answers[place] = answer  # behind those that ended before
            answer.done.set()

    def _keep(self, answer: Answer, response: Response) -> None:
        body = getattr(response, "body", None)
        if not isinstance(body, bytes) or not 200 <= response.status_code < 300 or len(body) > self._kept_bytes:
            return
        answer.body, answer.status, answer.headers = body, response.status_code, tuple(response.raw_headers)
        answer.until = self._clock() + self._kept_s
        self._bytes += len(body)

    def _forget(self) -> None:
        """Drop what is too old, or too much."""
        now = self._clock()
        for place, answer in [(place, answer) for place, answer in self._answers.items() if answer.status]:
            if answer.until > now and self._bytes <= self._kept_bytes:
                break
            del self._answers[place]
            self._bytes -= len(answer.body)


def key_of(headers: Headers, stream: bool) -> str | None:
    """The request's key, if it has one. Raises Refusal (400) for several, and for one of an answer that streams."""
    said = headers.getlist(HEADER)
    if len(said) > 1:
        raise _no_key(f"there are {len(said)}; send one")
    if said and stream:
        raise _no_key("an answer that streams is not kept; leave stream out, or the key")
    return said[0] if said else None


def check_key(key: str) -> None:
    """Raises Refusal (400)."""
    if not 0 < len(key) <= KEY_CHARACTERS or not key.isascii() or not key.isprintable():
        fix = f"send 1 to {KEY_CHARACTERS} printable characters of ASCII, e.g. a UUID"
        raise _no_key(f"{key[:40]!r} is no key; {fix}")


def _no_key(problem: str) -> Refusal:
    return Refusal(400, f"{HEADER}: {problem}", "invalid_value", None)


def digest_of(path: str, said: Mapping[str, Any], files: Mapping[str, Sequence[bytes]] | None = None) -> str:
    """What makes two requests the same: path, fields and files. The bytes of a form differ with its random boundary."""
    digests = {name: [hashlib.sha256(one).hexdigest() for one in some] for name, some in (files or {}).items()}
    return hashlib.sha256(json.dumps([path, said, digests], sort_keys=True).encode()).hexdigest()

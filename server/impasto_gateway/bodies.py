"""The bodies of requests: bounded while they arrive. They are read strictly: JSON in strict.py, forms in forms.py."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from impasto_gateway.errors import CLOSING, SERVER, Refusal
from impasto_gateway.forms import Form, parsed_form
from impasto_gateway.settings import Limits
from impasto_gateway.strict import parsed_json

__all__ = ["BodiesMiddleware", "Form", "parsed_form", "parsed_json"]

UPLOADS = "/v1/adapters/"
SLOWEST = 256 << 10  # bytes per second that a body needs, once `Limits.body_s` has passed


class BodiesMiddleware:
    """Refuses a body that is too large (413), too slow (408) or compressed (415), while it arrives.

    The bound of bytes is `Limits.body_bytes`; of an adapter's file, `Limits.adapter_bytes`. What still arrives after
    the answer is thrown away, for as long as connections.py lets it.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._held = Held(max(limits.held_bytes, limits.body_bytes))  # one body always fits in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = scope["method"] == "PUT" and scope["path"].startswith(UPLOADS)
        most = self._limits.adapter_bytes if is_upload else self._limits.body_bytes
        check_head(Headers(scope=scope), most)
        held = Held(most) if is_upload else self._held
        body = Body(receive, most, self._limits.body_s, held)
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.let_go()


@dataclass
class Held:
    """The bytes of all bodies that are in memory, from their arrival until their requests are answered."""

    most: int
    bytes: int = 0

    def add(self, count: int) -> None:
        """Raises Refusal (503) for more than there may be."""
        if self.bytes + count > self.most:
            problem = f"requests under way hold {self.bytes} bytes, of {self.most} at once; try again later"
            raise Refusal(503, f"body: {problem}", "bodies_full", None, SERVER, again=True, retry_after_s=1.0)
        self.bytes += count


class Body:
    """A body as it arrives: `receive` in the place of ASGI's. Its bytes are `held` until `let_go`."""

    def __init__(self, receive: Receive, most: int, first_s: float, held: Held) -> None:
        self._receive = receive
        self._held, self._holds = held, 0
        self._most = most
        self._first_s = first_s
        self._start = monotonic()
        self._bytes = 0
        self._ended = False

    async def receive(self) -> Message:
        """The next message. Raises Refusal; once the body has ended, waits for as long as it takes."""
        if self._ended:
            return await self._receive()
        message = await self._in_time()
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self._ended = not message.get("more_body", False)
        if self._bytes > self._most:
            self._ended = True
            raise too_large(self._most)
        self._hold(self._bytes - self._holds)
        return message

    def let_go(self) -> None:
        """The body isn't needed any more."""
        self._held.bytes -= self._holds
        self._holds = 0

    def _hold(self, count: int) -> None:
        try:
            self._held.add(count)
        except Refusal:
            self._ended = True
            raise
        self._holds += count

    async def _in_time(self) -> Message:
        limit_s = self._first_s + self._bytes / SLOWEST - (monotonic() - self._start)
        try:
            async with asyncio.timeout(max(0.0, limit_s)):  # wait_for of Python 3.11 may lose a cancel
                return await self._receive()
        except TimeoutError:
            self._ended = True
            got = f"{self._bytes} bytes after {monotonic() - self._start:.0f} s, and no end"
            raise Refusal(408, f"body: {got}; send it faster, or a smaller one", "body_too_slow", again=True) from None


def check_head(headers: Headers, most: int) -> None:
    """Raises Refusal for what the headers say already."""
    packed = headers.get("content-encoding", "identity").strip().lower()
    if packed != "identity":
        raise Refusal(415, f"content-encoding: {packed[:40]!r} is not read; send the body as it is", "body_compressed")
    length = headers.get("content-length")
    if length is None:
        return
    if "transfer-encoding" in headers:  # a proxy might believe the other one, and see another request's beginning
        problem = "it came together with transfer-encoding; send one of them"
        raise Refusal(400, f"content-length: {problem}", "bad_content_length", headers=CLOSING)
    if not (length.isascii() and length.isdigit()):
        raise Refusal(
            400, f"content-length: {length[:40]!r} is no number; send that of the body's bytes", "bad_content_length"
        )
    if len(length) > 15 or int(length) > most:
        raise too_large(most)


def too_large(most: int) -> Refusal:
    return Refusal(413, f"body: it has more than {most} bytes; send at most that", "body_too_large")

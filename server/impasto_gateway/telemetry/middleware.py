"""The outermost middleware: every request gets a Record and an id, and is logged and counted when its answer ends."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from impasto_gateway.errors import CANCELLED
from impasto_gateway.telemetry.record import Record, id_of

if TYPE_CHECKING:
    from impasto_gateway.telemetry.telemetry import Telemetry

ID_HEADER = "x-request-id"
ELSEWHERE = "other"  # the route of what no handler saw: a path is the caller's text, and metrics would grow with it


class TelemetryMiddleware:
    """Puts a Record into scope["state"]["record"], and answers with its id in x-request-id.

    `routes` tell where a request went that was refused before it reached its handler, e.g. for want of a key.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry, routes: Sequence[BaseRoute] = ()) -> None:
        self._app = app
        self._routes = routes
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request = HTTPConnection(scope)
        record = Record(id_of(request.headers.get(ID_HEADER)))
        scope.setdefault("state", {})["record"] = record
        answer = _Answer(record, receive, send)
        with self._telemetry.watching(record, request):
            try:
                await self._app(scope, answer.receive, answer.send)
            except CancelledError:
                answer.left = True
                raise
            finally:
                record.route = record.route or route_of(scope, self._routes)
                answer.settle()


class _Answer:
    """What went out, and whether the caller waited for all of it."""

    def __init__(self, record: Record, receive: Receive, send: Send) -> None:
        self._record, self._receive, self._send = record, receive, send
        self._complete = False
        self.left = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._complete:
            self.left = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._record.status = message["status"]
            MutableHeaders(scope=message)[ID_HEADER] = self._record.id
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._complete = True

    def settle(self) -> None:
        """The request is over: its time, its status and its outcome."""
        record = self._record
        record.total_ms = record.age_ms()
        if not self._complete:  # left, or the handler itself broke down
            record.status = CANCELLED if self.left else 500
            record.outcome = ""
        record.outcome = record.outcome or outcome_of(record.status)


def route_of(scope: Scope, routes: Sequence[BaseRoute] = ()) -> str:
    """The path of the route that took the request, or would have, with its parameters as {name}; else ELSEWHERE."""
    taken = scope.get("route") or next((one for one in routes if one.matches(scope)[0] is not Match.NONE), None)
    return str(getattr(taken, "path", ELSEWHERE))


def outcome_of(status: int) -> str:
    """The outcome that a status means, in the words of the server's own counters."""
    if status < 400:
        return "done"
    named = {CANCELLED: "cancelled", 408: "expired", 429: "rejected", 504: "expired"}
    return named.get(status, "refused" if status < 500 else "failed")

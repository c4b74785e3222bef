"""The middleware that answers requests which the end of the grace cuts off: with a status, or a stream's last event."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from impasto_gateway import envelopes
from impasto_gateway.drain import CutOff, Drain
from impasto_gateway.errors import SERVER, Refusal
from impasto_gateway.sse import Events


class CuttingMiddleware:
    """Raises Refusal (503) for a request that has no answer yet when it is cut off."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        try:
            async with self._drain.bounded():
                await self._app(scope, receive, answer.send)
        except CutOff:
            await answer.cut_off(scope)


class _Answer:
    """What went out so far."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = self._streams = self._complete = False

    async def send(self, message: Message) -> None:
        await self._send(message)
        if message["type"] == "http.response.start":
            self._begun = True
            self._streams = Headers(raw=message["headers"]).get("content-type", "").startswith(Events.media_type)
        else:
            self._complete = not message.get("more_body", False)

    async def cut_off(self, scope: Scope) -> None:
        """A stream gets its last event. An answer in one piece that is half out can only be left so."""
        problem = "the gateway stopped before this was done; send the request to another one, or later"
        refusal = Refusal(503, problem, "unavailable", kind=SERVER, again=True, retry_after_s=1.0)
        if not self._begun:
            raise refusal
        if self._streams and not self._complete:
            if record := scope.get("state", {}).get("record"):
                record.status = refusal.status  # what the log and the metrics say; 200 has gone out already
            body = envelopes.failed(refusal).encoded()
            await self._send({"type": "http.response.body", "body": body, "more_body": False})

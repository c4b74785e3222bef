"""uvicorn's connections, with patience that ends: for requests that don't begin, and answers that nobody reads."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from impasto_gateway.errors import CLOSING, SERVER, Refusal

BEGIN_S = 10.0  # for a request's headers to arrive, and for the rest of a body that has its answer already
CROWDED, CROWDED_S = 0.9, 1  # this share of all connections is open: others idle for so long, and make room
BEYOND = "beyond"  # in a request's state
STALL_S = 60.0  # for a client to read anything of an answer


class PatientProtocol(H11Protocol):
    """Closes a connection that sends its headers drop by drop, sends a body on and on after the answer, or reads
    nothing. uvicorn alone would keep all three for ever. How long a body may take, bodies.py knows. Connections beyond
    uvicorn's `limit_concurrency` are refused by CrowdedMiddleware; those that were open before go on.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._idle_s = self.timeout_keep_alive
        self._most, self.limit_concurrency = self.limit_concurrency, None
        self._begin, self._stall = _Timer(BEGIN_S), _Timer(STALL_S)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._most is not None and len(self.connections) > self._most:
            self.app_state = {**self.app_state, BEYOND: True}
        self._begin.start(self.loop, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._begin.stop()
        self._stall.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._begin.stop()
        elif not self.transport.is_closing():
            self._begin.start(self.loop, self.transport)

    def on_response_complete(self) -> None:
        if self._most is not None and len(self.connections) > CROWDED * self._most:
            self.timeout_keep_alive = min(CROWDED_S, self._idle_s)
        else:
            self.timeout_keep_alive = self._idle_s
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall.start(self.loop, self.transport)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall.stop()


class CrowdedMiddleware:
    """Raises Refusal (503) for what comes by a connection beyond the most."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("state", {}).get(BEYOND):
            message = "connections: as many are open as there may be; try again later, and use one for several requests"
            raise Refusal(503, message, "connections_full", kind=SERVER, again=True, retry_after_s=1.0, headers=CLOSING)
        await self._app(scope, receive, send)


class _Timer:
    """Aborts a connection when it runs out."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._handle: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        """Unless it runs already."""
        if self._handle is None:
            self._handle = loop.call_later(self._after_s, transport.abort)

    def stop(self) -> None:
        """May be repeated."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

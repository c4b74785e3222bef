"""uvicorn's connections, with patience that ends: for requests that don't begin, and answers that nobody reads."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

BEGIN_S = 10.0  # for a request's headers to arrive, and for the rest of a body that has its answer already
STALL_S = 60.0  # for a client to read anything of an answer


class PatientProtocol(H11Protocol):
    """Closes a connection that sends its headers drop by drop, sends a body on and on after the answer, or reads
    nothing. uvicorn alone would keep all three for ever. How long a body may take, bodies.py knows.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._begin: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin = self.loop.call_later(BEGIN_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._begin, self._stall = _stopped(self._begin), _stopped(self._stall)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._begin = _stopped(self._begin)
        elif self._begin is None:
            self._begin = self.loop.call_later(BEGIN_S, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self._stall or self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall = _stopped(self._stall)


def _stopped(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()

"""Answers as server-sent events: a stream that notices at once when its reader leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from impasto_gateway.presence import ended, gone

PING_S = 10.0  # a comment after so many seconds keeps proxies from taking the stream for dead
PING = b": ping\n\n"
LOOK_S = 1.0  # a comment says how many others share the server; so often is looked whether that has changed
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}  # the latter: nginx passes each event on at once


@dataclass(frozen=True)
class Event:
    """One event; its data is sent as JSON in one line."""

    name: str
    data: Mapping[str, Any]

    def encoded(self) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (self.name.encode(), json.dumps(self.data).encode())


class Events(Response):
    """Sends events as they come. When the reader leaves, and at the end, `close` is called at once.

    `others` says with how many other requests this one shares the server: `: others 3`, a comment, tells who reads it.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[Event, None],
        close: Callable[[], Awaitable[None]],
        others: Callable[[], int] = lambda: 0,
    ) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._events, self._close, self._others = events, close, others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        works = (self._told(send), gone(receive), self._commented(send), _pings(send))
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await ended(*tasks)
            await self._close()
        if not tasks[0].cancelled():
            tasks[0].result()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _told(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._events) as events:
            async for event in events:
                await send(_part(event.encoded()))

    async def _commented(self, send: Send) -> None:
        said = 0
        while True:
            await asyncio.sleep(LOOK_S)
            if (now := self._others()) != said:
                await send(_part(b": others %d\n\n" % now))
                said = now


async def _pings(send: Send) -> None:
    while True:
        await asyncio.sleep(PING_S)
        await send(_part(PING))


def _part(body: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": True}

"""An app's lifespan without a server: what it opened is closed at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp


@asynccontextmanager
async def alive(app: ASGIApp) -> AsyncIterator[None]:
    """The app, started, and stopped afterwards, as a server does it."""
    orders: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    started = asyncio.Event()

    async def send(message: Any) -> None:
        assert message["type"] in ("lifespan.startup.complete", "lifespan.shutdown.complete"), message
        started.set()

    running = asyncio.ensure_future(
        app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, orders.get, send)
    )
    orders.put_nowait({"type": "lifespan.startup"})
    await started.wait()
    try:
        yield
    finally:
        orders.put_nowait({"type": "lifespan.shutdown"})
        await running

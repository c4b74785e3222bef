"""One of the servers behind the gateway: its client, whether it is ready, and what is known of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from impasto_client import AsyncClient
from impasto_gateway.residency import Residency
from impasto_gateway.routing import Replica, Wanted

FRESH_S = 1.0  # for so long, a server's readiness is believed
PROBE_S = 1.0  # a server that takes longer to say that it is ready isn't


@dataclass(eq=False)
class Server:
    """One of them. Its client is made at first use, in the event loop that uses it."""

    url: str
    make: Callable[[], AsyncClient]
    in_flight: int = 0
    painting: int = 0  # those of them that paint
    ready: bool = True
    asked_at: float = field(default=-FRESH_S, repr=False)
    holds: Residency = field(default_factory=Residency, repr=False)
    suspects: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)  # one request at a time that may kill it
    _client: AsyncClient | None = field(default=None, repr=False)
    _probe: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def client(self) -> AsyncClient:
        if self._client is None:
            self._client = self.make()
        return self._client

    def seen(self, wanted: Wanted) -> Replica:
        """As routing sees it."""
        return self.holds.seen(self.url, wanted, self.in_flight, self.ready)

    async def is_ready(self) -> bool:
        """Asked anew after FRESH_S, once for all who want to know. A server that hangs is not ready, after PROBE_S."""
        if time.monotonic() - self.asked_at > FRESH_S:
            if self._probe is None:
                self._probe = asyncio.create_task(self._probed())
                self._probe.add_done_callback(self._told)
            await asyncio.shield(self._probe)  # who leaves doesn't take it from others
        return self.ready

    def lost(self) -> None:
        """It is gone, as far as one can see: others are preferred until it is asked again. Once back, its banks are
        empty.
        """
        self.declined()
        self.holds.restarted()

    def declined(self) -> None:
        """It takes nothing now: others are preferred until it is asked again."""
        self.ready, self.asked_at = False, time.monotonic()

    async def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
        if self._client is not None:
            await self._client.close()

    async def _probed(self) -> None:
        try:
            async with asyncio.timeout(PROBE_S):
                ready = await self.client.is_ready()
        except TimeoutError:
            ready = False
        self.ready, self.asked_at = ready, time.monotonic()

    def _told(self, probe: asyncio.Task[None]) -> None:
        self._probe = None
        if not probe.cancelled():
            probe.exception()  # seen, also when everybody who asked has left

"""One of the servers behind the gateway: its client, whether it is ready, and what is known of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from impasto_client import AsyncClient
from impasto_gateway.load import NOTHING, load_in, read
from impasto_gateway.residency import Residency
from impasto_gateway.routing import Replica, Wanted

FRESH_S = 1.0  # for so long, a server's readiness is believed
PROBE_S = 1.0  # a server that takes longer to say that it is ready isn't

_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class Server:
    """One of them. Its client is made at first use, in the event loop that uses it.

    `in_flight` are this gateway's requests there, `most` is how many these were since its metrics were read last, and
    `others` are those that it has from elsewhere, as these metrics say.
    """

    url: str
    make: Callable[[], AsyncClient]
    metrics_url: str | None = None
    in_flight: int = 0
    most: int = 0
    others: int = 0
    painting: int = 0  # those of them that paint
    ready: bool = True
    asked_at: float = field(default=-FRESH_S, repr=False)
    holds: Residency = field(default_factory=Residency, repr=False)
    suspects: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)  # one request at a time that may kill it
    heard_at: float = field(default=-FRESH_S, repr=False)
    _client: AsyncClient | None = field(default=None, repr=False)
    _probe: asyncio.Task[None] | None = field(default=None, repr=False)
    _hearing: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def client(self) -> AsyncClient:
        if self._client is None:
            self._client = self.make()
        return self._client

    def seen(self, wanted: Wanted) -> Replica:
        """As routing sees it."""
        return self.holds.seen(self.url, wanted, self.in_flight + self.others, self.ready)

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

    def entered(self) -> None:
        """A request goes there."""
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)

    @property
    def unheard(self) -> bool:
        """Whether its metrics were read long ago; False if there are none."""
        is_old = time.monotonic() - self.heard_at >= FRESH_S
        return self.metrics_url is not None and self._hearing is None and is_old

    def hear(self, digests: Mapping[str, str]) -> None:
        """Read its metrics; nobody waits for it. `digests` are those of adapters, by name."""
        assert self.metrics_url is not None, "it is unheard"
        self._hearing = asyncio.create_task(self._heard(self.metrics_url, digests))
        self._hearing.add_done_callback(self._listened)

    async def close(self) -> None:
        for task in (self._probe, self._hearing):
            if task is not None:
                task.cancel()
        if self._client is not None:
            await self._client.close()

    async def _probed(self) -> None:
        try:
            async with asyncio.timeout(PROBE_S):
                ready = await self.client.is_ready()
        except TimeoutError:
            ready = False
        self.ready, self.asked_at = ready, time.monotonic()

    async def _heard(self, url: str, digests: Mapping[str, str]) -> None:
        """What can't be read tells nothing: then this gateway's own requests are all that is known."""
        text = await asyncio.to_thread(read, url)
        load = load_in(text) if isinstance(text, str) else NOTHING
        self.others = max(0, load.requests - self.most)  # the metrics may count requests that are over by now
        self.most, self.heard_at = self.in_flight, time.monotonic()
        for bundle, seats in load.seats.items():
            if seats > 0:
                self.holds.limit(bundle, seats)
        for bundle, names in load.worn.items():
            self.holds.sent(Wanted(bundle, frozenset(digests[name] for name in names if name in digests)))

    def _listened(self, hearing: asyncio.Task[None]) -> None:
        self._hearing = None
        if not hearing.cancelled() and (error := hearing.exception()) is not None:
            _LOG.warning("the metrics at %s can't be understood: %s", self.metrics_url, error)
            self.heard_at = time.monotonic()

    def _told(self, probe: asyncio.Task[None]) -> None:
        self._probe = None
        if not probe.cancelled():
            probe.exception()  # seen, also when everybody who asked has left

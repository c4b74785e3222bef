"""The servers behind the gateway: which of them paints next, and what they have."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from impasto_client import AsyncClient
from impasto_client.catalogue import Catalogue
from impasto_client.errors import ConnectError, ServerFull, ServerUnavailable

FRESH_S = 1.0  # for so long, a catalogue and a server's readiness are believed
PROBE_S = 1.0  # a server that takes longer to say that it is ready isn't


@dataclass
class Server:
    """One of them. Its client is made at first use, in the event loop that uses it."""

    url: str
    make: Callable[[], AsyncClient]
    in_flight: int = 0
    painting: int = 0  # those of them that paint
    ready: bool = True
    asked_at: float = field(default=-FRESH_S, repr=False)
    _client: AsyncClient | None = field(default=None, repr=False)
    _probe: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def client(self) -> AsyncClient:
        if self._client is None:
            self._client = self.make()
        return self._client

    async def is_ready(self) -> bool:
        """Asked anew after FRESH_S, once for all who want to know. A server that hangs is not ready, after PROBE_S."""
        if time.monotonic() - self.asked_at > FRESH_S:
            if self._probe is None:
                self._probe = asyncio.create_task(self._probed())
                self._probe.add_done_callback(self._told)
            await asyncio.shield(self._probe)  # who leaves doesn't take it from others
        return self.ready

    def lost(self) -> None:
        """It failed a request: others are preferred until it is asked again."""
        self.ready, self.asked_at = False, time.monotonic()

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

    async def close(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
        if self._client is not None:
            await self._client.close()


@dataclass
class Turn:
    """A request's stay at a server; it begins when one is chosen."""

    server: Server | None = None

    @property
    def others(self) -> int:
        """How many other requests of this gateway that server works on now. They share its passes, and its time."""
        return 0 if self.server is None else max(0, self.server.painting - 1)


class Upstream:
    """One or several servers that all serve the same; used from one event loop."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = servers
        self._catalogue: tuple[float, Catalogue] | None = None
        self._asking: asyncio.Task[Catalogue] | None = None

    @classmethod
    def of(cls, urls: Sequence[str]) -> Upstream:
        """Servers by the host:port of their gRPC. Raises ConnectError at first use for what is none."""
        return cls([Server(url, _maker(url)) for url in urls])

    @classmethod
    def over(cls, *clients: AsyncClient) -> Upstream:
        """Of clients that are there already, e.g. with a fake transport."""
        return cls([Server(f"client {place}", _giver(client)) for place, client in enumerate(clients)])

    @asynccontextmanager
    async def client(self) -> AsyncIterator[AsyncClient]:
        """The client of the ready server with the least requests in flight, of those that came through here.

        If none seems ready, one is tried all the same: its own error says best what is wrong.
        """
        async with self._at(await self._chosen()) as client:
            yield client

    @asynccontextmanager
    async def painter(self, turn: Turn) -> AsyncIterator[AsyncClient]:
        """As `client`, for a request that paints: it counts among the others' `others`."""
        server = await self._chosen()
        async with self._at(server) as client:
            turn.server = server
            server.painting += 1
            try:
                yield client
            finally:
                server.painting -= 1

    async def catalogue(self) -> Catalogue:
        """What the servers have, at most FRESH_S old. Raises errors of the ImpastoError tree."""
        if self._catalogue is not None and time.monotonic() - self._catalogue[0] < FRESH_S:
            return self._catalogue[1]
        if self._asking is None:
            self._asking = asyncio.create_task(self._read())
            self._asking.add_done_callback(self._asked)
        return await asyncio.shield(self._asking)  # who leaves doesn't take it from others

    def forget(self) -> None:
        """The registry has changed: the next catalogue is read anew."""
        self._catalogue = None

    async def ready(self) -> bool:
        """Whether at least one server would paint now."""
        return any(await asyncio.gather(*(server.is_ready() for server in self._servers)))

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(server.close() for server in self._servers))

    @asynccontextmanager
    async def _at(self, server: Server) -> AsyncIterator[AsyncClient]:
        server.in_flight += 1
        try:
            yield server.client
        except (ConnectError, ServerUnavailable) as error:
            if not isinstance(error, ServerFull):
                server.lost()
            raise
        finally:
            server.in_flight -= 1

    async def _chosen(self) -> Server:
        if len(self._servers) == 1:
            return self._servers[0]
        ready = await asyncio.gather(*(server.is_ready() for server in self._servers))
        able = [server for server, is_ready in zip(self._servers, ready, strict=True) if is_ready]
        return min(able or self._servers, key=lambda server: server.in_flight)

    async def _read(self) -> Catalogue:
        async with self.client() as client:
            found = await client.catalogue()
        self._catalogue = (time.monotonic(), found)  # now: one that takes longer than FRESH_S to read is of use, too
        return found

    def _asked(self, task: asyncio.Task[Catalogue]) -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # seen, also when everybody who asked has left


def _maker(url: str) -> Callable[[], AsyncClient]:
    return lambda: AsyncClient(url)


def _giver(client: AsyncClient) -> Callable[[], AsyncClient]:
    return lambda: client

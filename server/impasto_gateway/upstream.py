"""The servers behind the gateway: which of them paints next, and what they have."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from math import inf
from typing import TypeVar

from impasto_client import AsyncClient
from impasto_client.catalogue import Catalogue
from impasto_client.errors import ConnectError, DeadlineExceeded, ServerDeclined, ServerLost
from impasto_gateway.routing import Costs, ranked
from impasto_gateway.server import FRESH_S, Server
from impasto_gateway.turn import Turn

Answer = TypeVar("Answer")
Errors = tuple[type[Exception], ...]

UNTOUCHED: Errors = (ConnectError, ServerDeclined)  # the server hasn't begun with the request
PAUSE_S = 0.2  # between two looks whether a server is back
LATEST = 0.1  # how much the last request counts in what one takes


class Upstream:
    """One or several servers that all serve the same; used from one event loop."""

    def __init__(self, servers: Sequence[Server], costs: Costs | None = None) -> None:
        """`costs` are what is believed of the servers until they are known better."""
        self.servers = servers
        self._costs = costs or Costs()
        self._catalogue: tuple[float, Catalogue] | None = None
        self._asking: asyncio.Task[Catalogue] | None = None

    @classmethod
    def of(cls, urls: Sequence[str], metrics_urls: Sequence[str] = ()) -> Upstream:
        """Servers by the host:port of their gRPC. Raises ConnectError at first use for what is none.

        `metrics_urls` are theirs, in the same order; if they are more or fewer, it isn't known whose they are.
        """
        metrics = metrics_urls if len(metrics_urls) == len(urls) else [None] * len(urls)
        return cls([Server(url, _maker(url), told) for url, told in zip(urls, metrics, strict=True)])

    @classmethod
    def over(cls, *clients: AsyncClient, costs: Costs | None = None) -> Upstream:
        """Of clients that are there already, e.g. with a fake transport."""
        return cls([Server(f"client {place}", _giver(client)) for place, client in enumerate(clients)], costs)

    async def asked(self, ask: Callable[[AsyncClient], Awaitable[Answer]], moving_on: Errors = UNTOUCHED) -> Answer:
        """The answer of the ready server with the least requests in flight, of those that came through here.

        If that fails with an error of `moving_on`, the next is asked, each once. If none seems ready, one is tried all
        the same: its own error says best what is wrong.
        """
        able = await self._able() or self.servers[:1]
        *others, last = sorted(able, key=lambda server: server.in_flight)
        for server in others:
            try:
                async with self._at(server) as client:
                    return await ask(client)
            except moving_on:
                pass
        async with self._at(last) as client:
            return await ask(client)

    @asynccontextmanager
    async def painter(self, turn: Turn, ends_s: float = inf) -> AsyncIterator[AsyncClient]:
        """The client of the server where the request costs least (routing.py); one that failed it comes last.

        A suspect, which may be what its servers died of, has no other suspect beside it: they would take one another
        for the cause. It waits for that one until `ends_s`, on the monotonic clock.

        Raises DeadlineExceeded, and errors of the server.
        """
        server = turn.server = await self._chosen(turn)
        async with held(server.suspects, ends_s) if turn.is_suspect else nullcontext(), self._at(server) as client:
            server.holds.sent(turn.wanted)
            server.painting += 1
            began_s, company = time.monotonic(), server.painting
            try:
                yield client
                self._took((time.monotonic() - began_s) / max(company, server.painting))
            finally:
                server.painting -= 1

    async def another(self, turn: Turn) -> bool:
        """Whether there is a ready server that hasn't failed this request yet."""
        return any(server not in turn.passed for server in await self._able())

    async def is_short(self) -> bool:
        """Whether one of several servers isn't ready: it may be restarted, or replaced."""
        return len(self.servers) > 1 and len(await self._able()) < len(self.servers)

    async def back(self, until_s: float) -> bool:
        """Wait for a ready server, until this time of the monotonic clock. Whether there is one."""
        while time.monotonic() < until_s:
            if await self._able():
                return True
            await asyncio.sleep(PAUSE_S)
        return False

    async def catalogue(self) -> Catalogue:
        """What the servers have, at most FRESH_S old. Raises errors of the ImpastoError tree."""
        if self._catalogue is not None and time.monotonic() - self._catalogue[0] < FRESH_S:
            return self._catalogue[1]
        if self._asking is None:
            self._asking = asyncio.create_task(self._read())
            self._asking.add_done_callback(self._heard)
        return await asyncio.shield(self._asking)  # who leaves doesn't take it from others

    def forget(self) -> None:
        """The registry has changed: the next catalogue is read anew."""
        self._catalogue = None

    async def ready(self) -> bool:
        """Whether at least one server would paint now."""
        return bool(await self._able())

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(server.close() for server in self.servers))

    @asynccontextmanager
    async def _at(self, server: Server) -> AsyncIterator[AsyncClient]:
        server.entered()
        try:
            yield server.client
        except (ConnectError, ServerLost):
            server.lost()
            raise
        except ServerDeclined:
            server.declined()
            raise
        finally:
            server.in_flight -= 1

    async def _able(self) -> list[Server]:
        """Those that are ready."""
        ready = await asyncio.gather(*(server.is_ready() for server in self.servers))
        return [server for server, is_ready in zip(self.servers, ready, strict=True) if is_ready]

    async def _chosen(self, turn: Turn) -> Server:
        if len(self.servers) == 1:
            return self.servers[0]
        await self._able()
        self._hear()
        seen = [server.seen(turn.wanted) for server in self.servers]
        order = {one.name: place for place, one in enumerate(ranked(turn.wanted, seen, self._costs))}

        def preference(server: Server) -> tuple[bool, bool, int]:
            return server in turn.passed, turn.is_suspect and server.suspects.locked(), order[server.url]

        return min(self.servers, key=preference)

    def _hear(self) -> None:
        """Of what servers have from elsewhere, if they tell."""
        if unheard := [server for server in self.servers if server.unheard]:
            adapters = self._catalogue[1].adapters if self._catalogue else ()
            digests = {one.name: one.digest for one in adapters}
            for server in unheard:
                server.hear(digests)

    def _took(self, request_s: float) -> None:
        """A request was answered, and took so much of its server's time."""
        known_s = self._costs.request_s
        self._costs = replace(self._costs, request_s=max(1e-6, known_s + LATEST * (request_s - known_s)))

    async def _read(self) -> Catalogue:
        found = await self.asked(lambda client: client.catalogue(), (*UNTOUCHED, ServerLost))  # which changes nothing
        self._catalogue = (time.monotonic(), found)  # now: one that takes longer than FRESH_S to read is of use, too
        return found

    def _heard(self, task: asyncio.Task[Catalogue]) -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # seen, also when everybody who asked has left


@asynccontextmanager
async def held(lock: asyncio.Lock, until_s: float) -> AsyncIterator[None]:
    """The lock, waited for until this time of the monotonic clock. Raises DeadlineExceeded."""
    try:
        async with asyncio.timeout(max(0.0, until_s - time.monotonic())):
            await lock.acquire()
    except TimeoutError:
        problem = "it waited for a server that another request may end, until its own time was over"
        raise DeadlineExceeded(f"{problem}; send it again later, or with a longer timeout") from None
    try:
        yield
    finally:
        lock.release()


def _maker(url: str) -> Callable[[], AsyncClient]:
    return lambda: AsyncClient(url)


def _giver(client: AsyncClient) -> Callable[[], AsyncClient]:
    return lambda: client

"""Puts requests to replicas: each goes where a router sends it, over gRPC, and is timed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar

from benchmarks.common.fleet_simulation import Router
from benchmarks.parts.fleet.figures import Outcome, Segment
from benchmarks.parts.fleet.replicas import Replica
from benchmarks.parts.fleet.traffic import Asked

from impasto_client import AsyncClient

COUNTERS_LAG_S = 0.8  # a server publishes its counters every half second
USERS = 8  # at once, where requests have no times of their own

T = TypeVar("T")
Advance = Callable[[], object]


@dataclass
class Side:
    """Replicas behind a router. `under_way` counts the requests that each has, as the router sees it."""

    replicas: Sequence[Replica]
    router: Router
    clients: Sequence[AsyncClient]
    under_way: list[int] = field(default_factory=list)

    async def ask(self, asked: Asked, due: float, start: float) -> Outcome:
        """Paint one. `due` and `start` are moments of the clock. Raises the client's ImpastoError."""
        place = self.router.choose(asked.wanted, self.under_way, [True] * len(self.clients))
        self.under_way[place] += 1
        try:
            await self.clients[place].generate(
                asked.prompt, adapters=asked.name, steps=asked.steps, guidance_scale=1.0, seed=asked.seed, format="png"
            )
        finally:
            self.under_way[place] -= 1
        return Outcome(due - start, perf_counter() - due, place, asked.name)

    async def as_due(self, requests: Sequence[Asked], answered: Advance = lambda: None) -> list[Outcome]:
        """Send each at its time, whether or not the others are done."""
        start = perf_counter()

        async def one(asked: Asked) -> Outcome:
            await asyncio.sleep(max(0.0, start + asked.at_s - perf_counter()))
            outcome = await self.ask(asked, start + asked.at_s, start)
            answered()
            return outcome

        return await together([one(asked) for asked in requests])

    async def as_able(
        self, requests: Sequence[Asked], answered: Advance = lambda: None, users: int = USERS
    ) -> list[Outcome]:
        """Each of so many users sends the next request once they are answered."""
        start, left, outcomes = perf_counter(), iter(requests), list[Outcome]()

        async def user() -> None:
            for asked in left:
                outcomes.append(await self.ask(asked, perf_counter(), start))
                answered()

        await together([user() for _ in range(users)])
        return outcomes

    async def turn(self, requests: Sequence[Asked], answered: Advance = lambda: None) -> Segment:
        """`as_due`, with what the servers counted meanwhile."""
        before = await self._counted()
        outcomes = await self.as_due(requests, answered)
        loads, writes = (after - earlier for after, earlier in zip(await self._counted(), before, strict=True))
        return Segment(outcomes, len(self.replicas), loads, writes)

    async def _counted(self) -> tuple[float, float]:
        await asyncio.sleep(COUNTERS_LAG_S)
        found = [await asyncio.to_thread(one.counted) for one in self.replicas]
        return (sum(one["impasto_adapter_loads"] for one in found), sum(one["impasto_bank_writes"] for one in found))


@asynccontextmanager
async def opened(replicas: Sequence[Replica], router: Router) -> AsyncIterator[Side]:
    """A side with its connections."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(AsyncClient(one.url)) for one in replicas]
        yield Side(replicas, router, clients, [0] * len(replicas))


async def together(tasks: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """What they return, in order. If one fails, the others are cancelled."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one) for one in tasks]
    return [one.result() for one in running]

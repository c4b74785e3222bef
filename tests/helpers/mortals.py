"""Servers that die, as fakes: at a chosen point of a request, or of a request that kills whoever paints it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from impasto_client import AsyncFakeTransport, FakeTransport
from impasto_client.errors import ConnectError, ImpastoError, ServerLost
from impasto_client.wire import Tensors
from tests.helpers.gateways import fake

LOST = ServerLost("the connection to 127.0.0.1:8001 was lost before the answer came; send the request again")
GONE = ConnectError("nothing answers at 127.0.0.1:8001; start a server with `impasto serve`")


@dataclass
class MortalTransport(AsyncFakeTransport):
    """Dies with its first requests: each of `deaths` is after so many responses of a stream. Where nothing streams, any
    death is while it paints. It is ready again when it was asked `away` times.
    """

    deaths: list[int] = field(default_factory=list)
    error: ImpastoError = LOST
    away: int = 0
    fake: FakeTransport = field(default_factory=fake)

    def __post_init__(self) -> None:
        self._away = 0

    async def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        answer = self.fake.infer(tensors, timeout_s)
        if self.deaths:
            raise self._died()
        return answer

    async def stream(self, tensors: Tensors, timeout_s: float | None = None) -> AsyncGenerator[Tensors, None]:
        last = self.deaths[0] if self.deaths else None
        for place, response in enumerate(self.fake.stream(tensors, timeout_s)):
            if place == last:
                raise self._died()
            yield response
        if last is not None:
            raise self._died()

    async def is_ready(self) -> bool:
        self._away -= 1
        return self._away < 0

    def leave(self) -> None:
        """From now on it isn't ready, until it was asked so often."""
        self._away = self.away

    def _died(self) -> ImpastoError:
        self.deaths.pop(0)
        self.leave()
        return self.error


@dataclass
class BoxTransport(AsyncFakeTransport):
    """A server that takes all its requests with it when it is asked to paint `poison`, and is back at once. `died`
    counts that.
    """

    poison: str = "poison"
    fake: FakeTransport = field(default_factory=fake)
    died: int = 0

    def __post_init__(self) -> None:
        self._running = set[asyncio.Task[None]]()

    async def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        is_poison = self.poison.encode() in tensors["PROMPT"].item()
        with self._painting(0.02 if is_poison else 0.1) as painting:
            await asyncio.wait({painting})
            if painting.cancelled():
                raise LOST
        if is_poison:
            self._die()
            raise LOST
        return self.fake.infer(tensors, timeout_s)

    def _die(self) -> None:
        self.died += 1
        for one in self._running:
            one.cancel()

    @contextmanager
    def _painting(self, took_s: float) -> Generator[asyncio.Task[None], None, None]:
        task = asyncio.create_task(asyncio.sleep(took_s))
        self._running.add(task)
        try:
            yield task
        finally:
            self._running.discard(task)
            task.cancel()

"""A replica: a server of its own, and the calls that reach it over Ray."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from ray import serve

from impasto_client.errors import ConnectError, ImpastoError, ServerLost
from impasto_client.triton import AsyncGrpcTransport
from impasto_client.wire import Tensors
from impasto_deploy.ray.delay import Delay
from impasto_deploy.ray.failure import Failure
from impasto_deploy.ray.holding import Holding
from impasto_deploy.ray.keeper import GaveUp, Keeper
from impasto_deploy.ray.request import Routed
from impasto_deploy.ray.server import Server
from impasto_deploy.ray.transport import Outcome

ENDING_S = 15.0  # for a server to end, beyond the grace
QUEUE_DELAY_S = "queue_delay_s"  # as the autoscaling policy finds it

_LOG = logging.getLogger("ray.serve")  # Ray writes it beside its own lines on the replica


@dataclass(frozen=True)
class ReplicaSettings:
    """What each replica is started with.

    `options` are those of `impasto serve`; `threads` the cores that it computes on, its own ones if `pin`. A server may
    take `start_s` seconds until it is ready, and `grace_s` to finish requests when it stops. Another `version` replaces
    all replicas, and nothing else.
    """

    options: tuple[str, ...]
    threads: int = 1
    pin: bool = False
    start_s: float = 300.0
    grace_s: float = 30.0
    version: str = ""

    def command(self) -> list[str]:
        """All options of its `impasto serve`. It is quiet: the end of its log comes with an error."""
        return [*self.options, "--threads", str(self.threads), "--grace", f"{self.grace_s:g}", "--quiet"]


class Replica:
    """Ray makes one in a process of its own; all methods run in one event loop.

    Raises GaveUp, which Ray reports, where its server can't start.
    """

    def __init__(self, settings: ReplicaSettings) -> None:
        context = serve.get_replica_context()
        self._name = context.replica_id.unique_id
        self._settings = settings
        cores = shared(sorted(os.sched_getaffinity(0)), context.rank.local_rank, settings) if settings.pin else []
        start = partial(Server, settings.command(), cores, _LOG.info)
        self._keeper = Keeper(start, _LOG.warning)
        self._transport: tuple[str, AsyncGrpcTransport] | None = None
        self._delay = Delay()
        self._holding = Holding()
        self._keeper.wait(settings.start_s)

    async def infer(self, routed: Routed, tensors: dict[str, Any], timeout_s: float | None) -> Outcome:
        """A picture's tensors, or what went wrong."""
        self._holding.sent(routed.wanted)
        with self._delay.counted():
            return await self._told(lambda server: server.infer(tensors, timeout_s))

    async def score(self, routed: Routed, tensors: dict[str, Any], timeout_s: float | None) -> Outcome:
        """Scores, or what went wrong."""
        return await self._told(lambda server: server.score(tensors, timeout_s))

    async def catalogue(self, routed: Routed, tensors: dict[str, Any], timeout_s: float | None) -> Outcome:
        """The catalogue, or what went wrong."""
        return await self._told(lambda server: server.catalogue(timeout_s))

    async def stream(
        self, routed: Routed, tensors: dict[str, Any], timeout_s: float | None
    ) -> AsyncGenerator[Outcome, None]:
        """Each response's tensors; what went wrong comes last."""
        self._holding.sent(routed.wanted)
        try:
            with self._delay.counted():
                async with aclosing(self._server().stream(tensors, timeout_s)) as responses:
                    async for response in responses:
                        yield dict(response)
        except ImpastoError as error:
            yield self._failure(error)

    async def is_ready(self, routed: Routed | None = None) -> bool:
        """Whether its server would paint now."""
        try:
            return await self._server().is_ready()
        except ConnectError:
            return False

    async def check_health(self) -> None:
        """Raises GaveUp when the server ends whenever it is started: Ray then puts another replica in its place.

        A server that is restarting isn't ready, which routers are told, but it comes back sooner than another would.
        """
        _ = self._keeper.url

    async def record_routing_stats(self) -> dict[str, Any]:
        """What the router hears of this replica."""
        return {"ready": await self.is_ready(), **self._holding.told()}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What the autoscaling policy hears of it."""
        return {QUEUE_DELAY_S: self._delay.mean_s()}

    def __del__(self) -> None:
        """Ray calls it once nothing is under way. When the grace is over it kills the process: the server notices."""
        if hasattr(self, "_keeper"):  # else it didn't come so far
            self._keeper.close(self._settings.grace_s + ENDING_S)

    def _server(self) -> AsyncGrpcTransport:
        """The server's transport. Raises ConnectError while there is none."""
        try:
            url = self._keeper.url
        except GaveUp:
            url = None
        if url is None:
            raise ConnectError("the replica's server is restarting; send the request again")
        if self._transport is None or self._transport[0] != url:
            self._transport = (url, AsyncGrpcTransport(url))
        return self._transport[1]

    async def _told(self, ask: Callable[[AsyncGrpcTransport], Coroutine[Any, Any, Tensors]]) -> Outcome:
        try:
            return dict(await ask(self._server()))
        except ImpastoError as error:
            return self._failure(error)

    def _failure(self, error: ImpastoError) -> Failure:
        if isinstance(error, ConnectError | ServerLost):
            self._holding.emptied()
        return Failure.of(error, self._name)


def shared(cores: Sequence[int], rank: int, settings: ReplicaSettings) -> list[int]:
    """The cores of the replica with this rank on its machine; round the cores again where there are too few."""
    first = rank * settings.threads
    return [cores[(first + one) % len(cores)] for one in range(min(settings.threads, len(cores)))]

"""The example of a load test: nobody waits for anybody, and a latency begins when its request was due."""

from __future__ import annotations

import asyncio
import time
from statistics import mean

import numpy as np
import pytest
from docs.examples.loadtest import Outcome, ask, due_times, load, report

from impasto_client import AsyncClient, AsyncFakeTransport, FakeTransport, ServerFull
from impasto_client.wire import Tensors

PATIENCE_S = 60.0


class Reluctant(AsyncFakeTransport):
    """Answers nobody before `count` are there."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count, self._all_are_there = count, asyncio.Event()

    async def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        answer = await super().infer(tensors, timeout_s)
        if len(self.fake.requests) == self._count:
            self._all_are_there.set()
        await self._all_are_there.wait()
        return answer


def test_requests_come_whether_or_not_those_before_them_are_done() -> None:
    transport = Reluctant(6)

    async def run() -> list[Outcome]:
        async with asyncio.timeout(PATIENCE_S):
            return await load(AsyncClient(transport=transport), [0.01] * 6, "a boat", ["mosaic", "ink"], steps=3)

    assert [one.kind for one in asyncio.run(run())] == ["painted"] * 6
    named = [request["ADAPTER_NAMES"][0] for request in transport.fake.requests]
    assert sorted(named) == [b"ink"] * 3 + [b"mosaic"] * 3


def test_a_late_start_counts() -> None:
    due = time.monotonic() - 5
    outcome = asyncio.run(ask(AsyncClient(transport=AsyncFakeTransport()), due, "a boat", None, None))
    assert outcome.kind == "painted"
    assert outcome.latency_s >= 5


def test_a_refusal_is_an_outcome() -> None:
    full = AsyncFakeTransport(FakeTransport(error=ServerFull("full", retry_after_s=1)))
    assert asyncio.run(ask(AsyncClient(transport=full), 0, "a boat", None, None)).kind == "ServerFull"


def test_times_are_those_of_a_poisson_process() -> None:
    times = due_times(rate=20, count=4000, seed=1)
    gaps = np.diff(times)
    assert (gaps > 0).all()
    assert mean(gaps) == pytest.approx(1 / 20, rel=0.1)
    assert gaps.std() == pytest.approx(1 / 20, rel=0.1)
    assert times == due_times(rate=20, count=4000, seed=1)


def test_the_report() -> None:
    outcomes = [Outcome("painted", second / 10) for second in range(100, 0, -1)] + [Outcome("ServerFull", 99)]
    said = report(outcomes, rate=3, took_s=50)
    assert said == {
        "outcomes": {"painted": 100, "ServerFull": 1},
        "offered_per_s": 3,
        "painted_per_s": 2,
        "p50_s": 5,
        "p95_s": 9.5,
        "p99_s": 9.9,
    }
    assert report([Outcome("ServerFull", 1)], rate=3, took_s=1)["p95_s"] is None

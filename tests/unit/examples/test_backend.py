"""The example of a backend: what it tries again, within its deadline, and what it counts."""

from __future__ import annotations

import asyncio

import pytest
from docs.examples.backend import Backend

from impasto_client import (
    AdapterNotFound,
    AsyncClient,
    AsyncFakeTransport,
    ConnectError,
    ImpastoError,
    ServerFull,
    ServerUnavailable,
)
from impasto_client.wire import Tensors

DEADLINE_S = 60.0


class Moody(AsyncFakeTransport):
    """Raises its errors, one at each try, and answers afterwards."""

    def __init__(self, *errors: ImpastoError) -> None:
        super().__init__()
        self._errors = list(errors)

    async def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        self.fake.error = self._errors.pop(0) if self._errors else None
        return await super().infer(tensors, timeout_s)


def backend(transport: AsyncFakeTransport) -> Backend:
    return Backend(AsyncClient(transport=transport), DEADLINE_S)


def test_what_may_help_is_tried_again_with_the_same_seed() -> None:
    transport = Moody(ConnectError("nobody"), ServerUnavailable("starting"), ServerFull("full", retry_after_s=0.01))
    made = backend(transport)
    picture = asyncio.run(made.paint("a red boat"))
    assert len(transport.fake.requests) == 4
    assert {int(request["SEED"][0]) for request in transport.fake.requests} == {picture.seed}
    assert (made.outcomes, made.retries) == ({"painted": 1}, 3)


def test_what_is_left_of_the_deadline_travels_along() -> None:
    transport = Moody(*[ServerUnavailable("starting")] * 2)
    asyncio.run(backend(transport).paint("a red boat"))
    given = [timeout for timeout in transport.fake.timeouts if timeout is not None]
    assert DEADLINE_S >= given[0] > given[1] > given[2] > 0


def test_a_request_that_is_wrong_is_not_tried_again() -> None:
    transport = Moody(AdapterNotFound("ADAPTER_NAMES: no adapter 'oil'"))
    made = backend(transport)
    with pytest.raises(AdapterNotFound):
        asyncio.run(made.paint("a red boat", adapters="oil"))
    assert len(transport.fake.requests) == 1
    assert (made.outcomes, made.retries) == ({"AdapterNotFound": 1}, 0)


def test_nobody_waits_for_a_try_after_the_deadline() -> None:
    transport = Moody(*[ServerFull("full", retry_after_s=2 * DEADLINE_S)] * 2)
    with pytest.raises(ServerFull):
        asyncio.run(backend(transport).paint("a red boat"))
    assert len(transport.fake.requests) == 1


def test_one_that_is_cancelled_is_counted() -> None:
    made = backend(Moody(ServerFull("full", retry_after_s=DEADLINE_S / 2)))

    async def leave() -> None:
        task = asyncio.create_task(made.paint("a red boat"))
        while not made.retries:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert made.outcomes == {"CancelledError": 1}


def test_the_metrics() -> None:
    made = backend(Moody(ServerFull("full", retry_after_s=0.01)))
    asyncio.run(made.paint("a red boat"))
    requests, retries, seconds = made.metrics().splitlines()
    assert (requests, retries) == ('pictures_total{outcome="painted"} 1', "pictures_retries_total 1")
    assert seconds == f"pictures_seconds_sum {made.seconds}"
    assert made.seconds >= 0.01

"""What each key may take, on a clock that the tests turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from impasto_gateway.callers import Allowance, Caller
from impasto_gateway.errors import Refusal
from impasto_gateway.rates import Rates
from tests.helpers.doorway import SETTINGS, calling, key_in, refused

PIXELS = 1_000_000


class Clock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def caller(name: str = "studio", **limits: int) -> Caller:
    return Caller(name, frozenset({"generate"}), Allowance(**limits))


def taken(rates: Rates, who: Caller, pixels: int = 0) -> float | None:
    """Take one request, and end it; the seconds to wait if it was refused."""

    async def take() -> float | None:
        try:
            async with rates.admitted(who, pixels):
                return None
        except Refusal as refusal:
            return refusal.retry_after_s

    return asyncio.run(take())


def test_requests_per_minute() -> None:
    clock = Clock()
    rates, who = Rates(clock), caller(requests_per_minute=3)
    assert [taken(rates, who) for _ in range(4)] == [None, None, None, 20.0]
    clock.now += 20
    assert [taken(rates, who) for _ in range(2)] == [None, 20.0]
    clock.now += 3600
    assert [taken(rates, who) for _ in range(4)] == [None, None, None, 20.0]


def test_pixels_per_minute() -> None:
    clock = Clock()
    rates, who = Rates(clock), caller(pixels_per_minute=2 * PIXELS)
    assert [taken(rates, who, PIXELS) for _ in range(3)] == [None, None, 30.0]
    assert taken(rates, who, PIXELS // 2) == 15.0


def test_a_picture_larger_than_a_minutes_pixels_is_painted_and_paid_for() -> None:
    clock = Clock()
    rates, who = Rates(clock), caller(pixels_per_minute=PIXELS)
    assert taken(rates, who, 3 * PIXELS) is None
    assert taken(rates, who, 1) == pytest.approx(120.0, abs=0.1)


def test_what_one_bound_refuses_costs_nothing_of_the_other() -> None:
    rates, who = Rates(Clock()), caller(requests_per_minute=2, pixels_per_minute=PIXELS)
    assert taken(rates, who, PIXELS) is None
    assert taken(rates, who, PIXELS) == 60.0
    assert taken(rates, who, 0) is None


def test_keys_have_allowances_of_their_own() -> None:
    rates = Rates(Clock())
    one, other = caller("one", requests_per_minute=1), caller("other", requests_per_minute=1)
    assert [taken(rates, who) for who in (one, one, other)] == [None, 60.0, None]


def test_a_bound_that_the_operator_changed_counts_at_once() -> None:
    rates = Rates(Clock())
    assert [taken(rates, caller(requests_per_minute=1)) for _ in range(2)] == [None, 60.0]
    assert taken(rates, caller(requests_per_minute=2)) is None


def test_requests_at_once() -> None:
    rates, who = Rates(), caller(concurrent=2)

    async def crowd() -> None:
        async with AsyncExitStack() as running:
            for _ in range(2):
                await running.enter_async_context(rates.admitted(who, 0))
            with pytest.raises(Refusal, match="2 requests are under way, of 2 at once") as refused:
                await running.enter_async_context(rates.admitted(who, 0))
            assert (refused.value.status, refused.value.again) == (429, True)
        async with rates.admitted(who, 0):  # both have ended
            pass

    asyncio.run(crowd())


def test_a_request_that_fails_has_ended() -> None:
    rates, who = Rates(), caller(concurrent=1)

    async def fail() -> None:
        async with rates.admitted(who, 0):
            raise ConnectionResetError

    for _ in range(3):
        with pytest.raises(ConnectionResetError):
            asyncio.run(fail())


def test_without_bounds_nothing_is_refused() -> None:
    rates = Rates(Clock())
    assert {taken(rates, caller(), PIXELS) for _ in range(1000)} == {None}


def test_pixels_are_paid_for_once_they_are_known() -> None:
    rates, who = Rates(Clock()), caller(pixels_per_minute=PIXELS)

    async def spend() -> None:
        async with rates.admitted(who):
            rates.spend(who, PIXELS)
            rates.spend(who, 1)

    with pytest.raises(Refusal, match="pixels per minute are used up") as refused:
        asyncio.run(spend())
    assert refused.value.status == 429


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/images/edits", "/v1/score", "/v1/verify"])
def test_what_is_refused_is_not_read(path: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    key = key_in(keys, "shop", limits=Allowance(requests_per_minute=1))

    async def untouched() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    async def story() -> None:
        async with calling(replace(SETTINGS, keys=keys), key=key) as caller:
            await caller.post(path, content=b"{")
            answer = await caller.post(path, content=untouched())
            assert refused(answer) == (429, "rate_limit_exceeded", None)

    asyncio.run(story())


def test_a_body_that_arrives_has_a_place_of_its_own(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    key = key_in(keys, "shop", limits=Allowance(concurrent=1))
    arriving, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"{"
        arriving.set()
        await go_on.wait()

    async def story() -> list[int]:
        async with calling(replace(SETTINGS, keys=keys), key=key) as caller:
            first = asyncio.create_task(caller.post("/v1/images/generations", content=slowly()))
            await asyncio.wait_for(arriving.wait(), 60)
            second = await caller.post("/v1/images/generations", json={"prompt": "a boat"})
            reading = await caller.get("/v1/models")
            go_on.set()
            return [(await first).status_code, second.status_code, reading.status_code]

    assert asyncio.run(story()) == [400, 429, 200]

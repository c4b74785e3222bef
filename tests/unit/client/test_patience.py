"""A timeout is more than nothing and at most a week, whoever it is told to, or math.inf."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from impasto_client import AsyncClient, AsyncFakeTransport, Client, FakeTransport, InvalidRequest
from impasto_client.tensor import shown

NONE: Any = [math.nan, 0, 0.0, -1, -math.inf, 604_801, 1e300, True, "5", b"5", 10**400, 10**5000]
NEVER = "is not a timeout; pass seconds, more than 0 and at most 604800, or math.inf for no limit$"

Ask = Callable[[FakeTransport, Any], object]


async def _asynchronously(fake: FakeTransport, ask: Callable[[AsyncClient], Any]) -> object:
    async with AsyncClient(transport=AsyncFakeTransport(fake)) as client:
        return await ask(client)


async def _streamed(client: AsyncClient, timeout: Any) -> object:
    return [part async for part in client.stream("a boat", timeout=timeout)]


WAYS: dict[str, Ask] = {
    "generate": lambda fake, t: Client(transport=fake).generate("a boat", timeout=t),
    "stream": lambda fake, t: list(Client(transport=fake).stream("a boat", timeout=t)),
    "score": lambda fake, t: Client(transport=fake).score(b"a", text="a boat", timeout=t),
    "client": lambda fake, t: Client(transport=fake, timeout=t).generate("a boat"),
    "async generate": lambda fake, t: asyncio.run(_asynchronously(fake, lambda c: c.generate("a boat", timeout=t))),
    "async stream": lambda fake, t: asyncio.run(_asynchronously(fake, lambda c: _streamed(c, t))),
    "async score": lambda fake, t: asyncio.run(_asynchronously(fake, lambda c: c.score(b"a", text="a", timeout=t))),
    "async client": lambda fake, t: AsyncClient(transport=AsyncFakeTransport(fake), timeout=t),
}


@pytest.mark.parametrize("timeout", NONE, ids=lambda timeout: f"{type(timeout).__name__} {shown(timeout):.12}")
@pytest.mark.parametrize("ask", WAYS.values(), ids=WAYS)
def test_what_is_no_time_to_wait_is_refused_before_anything_is_sent(ask: Ask, timeout: object) -> None:
    fake = FakeTransport()
    with pytest.raises(InvalidRequest, match=f"^TIMEOUT: .*{NEVER}") as caught:
        ask(fake, timeout)
    assert caught.value.field == "TIMEOUT"
    assert not fake.requests


@pytest.mark.parametrize(
    ("timeout", "told"),
    [(math.inf, None), (1e-9, 1e-9), (604_800, 604_800), (np.float32(2.5), 2.5), (np.inf, None)],
)
@pytest.mark.parametrize("ask", [WAYS[way] for way in WAYS if way != "async client"])
def test_every_other_number_of_seconds_is_told_and_infinity_is_no_limit(
    ask: Ask, timeout: object, told: object
) -> None:
    fake = FakeTransport()
    ask(fake, timeout)
    assert fake.timeouts == [told]

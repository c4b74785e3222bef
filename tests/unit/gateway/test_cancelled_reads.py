"""A read of a body that is cancelled ends, at whatever moment the cancel comes."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from impasto_gateway.bodies import Body, Held
from impasto_gateway.presence import gone

TURNS = 20  # of the event loop: more than anything here takes


@pytest.mark.parametrize("turns", range(6))
def test_a_cancel_is_not_lost_to_a_body_that_arrives_with_it(turns: int) -> None:
    async def cancelled() -> bool:
        messages = iter(({"type": "http.request", "body": b""},))

        async def receive() -> Message:
            for message in messages:
                return message
            stays: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
            return await stays

        reading = asyncio.ensure_future(gone(Body(receive, 1, 60.0, Held(1)).receive))
        await _pass(turns)
        reading.cancel()
        await _pass(TURNS)
        was = reading.done()
        reading.cancel()
        return was

    assert asyncio.run(cancelled())


async def _pass(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)

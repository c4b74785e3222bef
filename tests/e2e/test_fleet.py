"""Two real servers behind a gateway: one is killed while it paints, and nobody notices but by waiting."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from impasto_gateway.app import create_app
from impasto_gateway.settings import GatewaySettings
from impasto_server.values import MAX_STEPS
from tests.helpers.gateways import listening
from tests.helpers.waiting import PATIENCE_S

from .conftest import IMPASTO, Impasto, impasto_serve

GENERATIONS = "/v1/images/generations"
EACH = 6  # requests that stream, and as many that don't


def said(place: int) -> dict[str, Any]:
    """A request that takes a while: its two rows fill a batch, so its picture doesn't hang on its company."""
    adapters = {("neon", "stained-glass")[place % 2]: 0.8}
    return {"prompt": f"boat {place}", "seed": place, "steps": MAX_STEPS, "guidance_scale": 3.0, "adapters": adapters}


@dataclass
class Told:
    """What a caller of a stream hears."""

    steps: list[int]
    begun: asyncio.Event
    last: Mapping[str, Any]


@pytest.fixture(scope="module")
def fleet(module_command: list[str]) -> Iterator[list[Impasto]]:
    with ExitStack() as stack:
        yield [stack.enter_context(impasto_serve(module_command)) for _ in range(2)]


@pytest.fixture(scope="module")
def module_command(request: pytest.FixtureRequest) -> list[str]:
    folders = [f"--{name}={request.getfixturevalue(f'toy_{name}')}" for name in ("bundle", "registry")]
    settings = ["--engine=onnxruntime", "--precision=f32", "--threads=1", "--max-lanes=2", "--port=0"]
    return [IMPASTO, "serve", *folders, *settings]


@asynccontextmanager
async def calling(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
        yield client


async def whole(client: httpx.AsyncClient, place: int) -> tuple[str, int]:
    """The picture, and how often it was sent again."""
    answer = await client.post(GENERATIONS, json=said(place))
    assert answer.status_code == 200, answer.text
    return answer.json()["data"][0]["b64_json"], int(answer.headers.get("x-impasto-replays", 0))


async def streamed(client: httpx.AsyncClient, place: int, told: Told) -> tuple[str, int]:
    """As `whole`; `told` hears each step."""
    body = {**said(place), "stream": True, "progress": True, "partial_images": 3}
    async with client.stream("POST", GENERATIONS, json=body) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                told.last = json.loads(line.removeprefix("data: "))
                if told.last["type"] == "image_generation.progress":
                    told.steps.append(told.last["step"])
                    told.begun.set()
    assert told.last["type"] == "image_generation.completed", told.last
    return told.last["b64_json"], sum("sent again" in one for one in told.last["warnings"])


async def crowd(url: str, victim: int, unary: int) -> tuple[list[tuple[str, int]], list[list[int]]]:
    """Streams and `unary` requests at once; the server is killed when each stream has begun.

    The pictures, each with how often it was sent again, and the streams' steps.
    """
    telling = [Told([], asyncio.Event(), {}) for _ in range(EACH)]
    async with calling(url) as client:
        tasks = [
            *(asyncio.ensure_future(streamed(client, place, told)) for place, told in enumerate(telling)),
            *(asyncio.ensure_future(whole(client, place)) for place in range(EACH, EACH + unary)),
        ]
        await asyncio.gather(*(told.begun.wait() for told in telling))
        os.kill(victim, signal.SIGKILL)
        return await asyncio.gather(*tasks), [told.steps for told in telling]


async def quiet(url: str, requests: int) -> list[str]:
    """The pictures, painted one by one."""
    async with calling(url) as client:
        return [(await whole(client, place))[0] for place in range(requests)]


def test_a_killed_server_loses_nothing(fleet: list[Impasto]) -> None:
    with listening(create_app(GatewaySettings(tuple(one.url for one in fleet)))) as url:
        expected = asyncio.run(quiet(url, 2 * EACH))
        painted, steps = asyncio.run(crowd(url, fleet[0].server, EACH))
    assert [data for data, _ in painted] == expected
    assert any(again for _, again in painted), "the one that was killed had some"
    assert all(one == sorted(set(one)) for one in steps), "no step is told twice"


def test_the_only_server_is_waited_for_until_it_is_back(fleet: list[Impasto]) -> None:
    with listening(create_app(GatewaySettings((fleet[1].url,)))) as url:
        expected = asyncio.run(quiet(url, EACH))
        painted, steps = asyncio.run(crowd(url, fleet[1].server, 0))
    assert [data for data, _ in painted] == expected
    assert any(again for _, again in painted)
    assert all(one == sorted(set(one)) for one in steps)

"""More requests than the server takes, and clients that die: nothing is lost, hangs, or runs for nobody."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from time import monotonic

import pytest
from tritonclient.grpc import InferenceServerClient, InferInput, InferResult  # type: ignore[import-untyped]
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from impasto_server.ops.serve import Server, serve
from impasto_server.request import MAX_CANDIDATES, MAX_STEPS
from impasto_server.settings import Settings
from tests.helpers.waiting import eventually
from tests.helpers.wire import Tensor, ask, ints, texts

from .test_metrics import metrics, steady

PATIENCE_S = 120.0
ALL, ROOM, STEPS = 200, 32, 100
# A product's backend, with as many requests under way as its second argument says, in the way that its third names.
CLIENT = f"""
import asyncio, sys
from impasto_client import AsyncClient

async def generate(client, seed):
    await client.generate("a red boat", steps={MAX_STEPS}, n={MAX_CANDIDATES}, seed=seed)

async def stream(client, seed):
    async for part in client.stream("a red boat", steps={MAX_STEPS}, n={MAX_CANDIDATES}, seed=seed):
        pass

async def main(url, count, way):
    async with AsyncClient(url) as client:
        await asyncio.gather(*(way(client, seed) for seed in range(count)))

asyncio.run(main(sys.argv[1], int(sys.argv[2]), dict(generate=generate, stream=stream)[sys.argv[3]]))
"""


@pytest.fixture(scope="module")
def server(toy_bundle: Path, toy_registry: Path) -> Iterator[Server]:
    """Room for 32 requests; batches of one request, so that their work takes a while."""
    settings = Settings(toy_bundle, toy_registry, "onnxruntime", "f32", threads=1, max_requests=ROOM, max_lanes=2)
    with serve(settings) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.grpc_url) as client:
        yield client


@contextmanager
def client_process(url: str, requests: int, way: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", CLIENT, url, str(requests), way]) as process:
        try:
            yield process
        finally:
            process.kill()


def settled(server: Server, before: dict[str, float], requests: int) -> dict[str, float]:
    """How much the counters have grown once all of `requests` have come to an end; they are told twice a second."""
    ends = ("done", "cancelled", "expired", "rejected", "refused", "failed")

    def grown() -> dict[str, float]:
        return {name: value - before[name] for name, value in metrics(server).items()}

    eventually(lambda: sum(grown()[name] for name in ends) >= requests, PATIENCE_S)
    return grown()


@pytest.mark.parametrize("way", ["generate", "stream"])
def test_a_killed_client_is_noticed_long_before_its_work_would_be_done(
    way: str, server: Server, client: InferenceServerClient
) -> None:
    before = steady(server)
    with client_process(server.grpc_url, ROOM, way) as process:
        eventually(lambda: process.poll() is not None or metrics(server)["requests"] == ROOM, PATIENCE_S)
        assert process.poll() is None, "the client ended by itself"
        process.kill()
        eventually(lambda: metrics(server)["requests"] == 0, PATIENCE_S)
    grown = settled(server, before, ROOM)
    assert grown["done"] + grown["cancelled"] == ROOM
    assert grown["cancelled"] > 0
    assert grown["steps"] < ROOM * MAX_STEPS * MAX_CANDIDATES / 2
    assert ask(client, PROMPT=texts("a red boat"), STEPS=ints(1))["IMAGE"]


def test_of_200_requests_everyone_gets_a_picture_or_is_told_when_to_come_back(
    server: Server, client: InferenceServerClient
) -> None:
    before = steady(server)
    answers: SimpleQueue[InferResult | InferenceServerException] = SimpleQueue()
    for _ in range(ALL):
        client.async_infer(
            "stylize",
            [tensor("PROMPT", "BYTES", texts("a red boat")), tensor("STEPS", "INT32", ints(STEPS))],
            lambda result, error: answers.put(error or result),
        )
    deadline = monotonic() + PATIENCE_S
    outcomes = [answers.get(timeout=deadline - monotonic()) for _ in range(ALL)]
    refusals = [one for one in outcomes if isinstance(one, InferenceServerException)]
    pictures = [one.as_numpy("IMAGE")[0] for one in outcomes if isinstance(one, InferResult)]
    assert len(pictures) >= ROOM
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert refusals, "they never were more than the server takes"
    for refusal in refusals:
        assert refusal.status() == "StatusCode.UNAVAILABLE"
        said = re.search(
            rf"^RESOURCE_EXHAUSTED: .* full with {ROOM} requests; try again in (\S+) s$", refusal.message()
        )
        assert said, refusal.message()
        assert float(said[1]) > 0
    grown = settled(server, before, ALL)
    assert (grown["done"], grown["rejected"]) == (len(pictures), len(refusals))
    assert grown["steps"] == STEPS * len(pictures)
    assert metrics(server)["requests"] == 0
    assert ask(client, PROMPT=texts("a red boat"), STEPS=ints(1))["IMAGE"]


def tensor(name: str, dtype: str, values: Tensor) -> InferInput:
    one = InferInput(name, list(values.shape), dtype)
    one.set_data_from_numpy(values)
    return one

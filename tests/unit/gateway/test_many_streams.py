"""Hundreds of streams at once: all are stopped when their readers leave, and nothing of them stays."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from threading import Lock

import httpx
import pytest
from starlette.requests import Request

from impasto_client import AsyncFakeTransport
from impasto_client.simulation import steps
from impasto_client.wire import Tensors
from impasto_gateway.sse import Events
from impasto_gateway.streams import Stream
from tests.helpers.gateways import app_over, connected, fake, listening, request_bytes
from tests.helpers.waiting import PATIENCE_S, eventually

STREAMS = 500
WISH = request_bytes(json.dumps({"prompt": "a red boat", "stream": True}).encode())


class Counting(AsyncFakeTransport):
    """Paints one step of each picture and waits for ever; counts those under way."""

    def __init__(self) -> None:
        super().__init__(fake())
        self.under_way = 0
        self._lock = Lock()

    async def stream(self, tensors: Tensors, timeout_s: float | None = None) -> AsyncGenerator[Tensors, None]:
        self._add(1)
        try:
            yield next(steps(tensors))
            await asyncio.Event().wait()
        finally:
            self._add(-1)

    def _add(self, number: int) -> None:
        with self._lock:
            self.under_way += number


@pytest.fixture(autouse=True)
def _room() -> None:
    """Two file descriptors for each stream: one is the reader's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4 * STREAMS <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4 * STREAMS, hard))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def objects() -> int:
    """How many there are of what a stream is made of."""
    gc.collect()
    return sum(type(one) in (Stream, Events, Request) for one in gc.get_objects())


def test_streams_whose_readers_leave_leave_nothing() -> None:
    counting = Counting()
    with listening(app_over(counting)) as url:
        before, held = descriptors(), objects()
        with ExitStack() as readers:
            for _ in range(STREAMS):
                readers.enter_context(connected(url)).sendall(WISH)
            eventually(lambda: counting.under_way == STREAMS)
            assert httpx.get(f"{url}/health", timeout=PATIENCE_S).status_code == 200
        eventually(lambda: counting.under_way == 0)
        eventually(lambda: descriptors() <= before)
        eventually(lambda: objects() <= held)

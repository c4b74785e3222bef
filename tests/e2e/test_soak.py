"""A thousand adapters come and go under load, and the server's processes end as large as they were.

A toy adapter of rank 512 and the pixels of a picture are 48 kB each: lost once a cycle, either would be eight times
the tolerance. The first cycles aren't counted: allocators, caches and Triton's shared memory grow to what they need.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import pytest
from tritonclient.grpc import InferenceServerClient  # type: ignore[import-untyped]

from impasto_server.ops.serve import Server, serve
from impasto_server.settings import Settings
from tests.helpers import toy
from tests.helpers.waiting import eventually
from tests.helpers.wire import ask, ints, texts

from .test_metrics import metrics

WARM_UP, CYCLES = 200, 1000
USERS = 4
STYLES_EACH = 3  # one more than the bank has rows: a user never finds its adapter where it left it
RANK = 512
ROW = 4 * RANK * 2 * (toy.CHANNELS + toy.WIDTH)
RSS_TOLERANCE = 6 << 20


@dataclass(frozen=True)
class Footprint:
    """What the server's processes hold: bytes resident, open files, and bytes of shared memory."""

    rss: int
    files: int
    shm: int


def footprint(server: Server) -> Footprint:
    pids = [server.pid, *server.stubs]
    page = os.sysconf("SC_PAGE_SIZE")
    return Footprint(
        rss=sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for pid in pids),
        files=sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
        shm=sum(file.stat().st_blocks * 512 for file in Path("/dev/shm").glob(f"{server.shm_prefix}*")),
    )


@pytest.fixture
def server(toy_bundle: Path, tmp_path: Path) -> Iterator[Server]:
    """Room for two adapters in the bank and for none in host memory: every request loads its own and evicts another."""
    for user in range(USERS):
        for style in range(STYLES_EACH):
            data = toy.adapter_bytes(USERS * style + user, RANK, text_encoder=True)
            toy.register(tmp_path, f"style-{user}-{style}", data)
    settings = Settings(
        toy_bundle, tmp_path, "onnxruntime", "f32", threads=1, page_rank=RANK, bank_bytes=3 * ROW, host_bytes=1
    )
    with serve(settings) as server:
        yield server


def paint(client: InferenceServerClient, steps: int, *style: str) -> None:
    """A picture of 128 x 128 pixels."""
    size = ints(128)
    prompt, names = texts("a red boat"), texts(*style)
    answer = ask(client, PROMPT=prompt, ADAPTER_NAMES=names, STEPS=ints(steps), WIDTH=size, HEIGHT=size)
    assert answer["IMAGE"].startswith(b"\x89PNG")


def cycle(client: InferenceServerClient, user: int, times: int) -> None:
    for turn in range(times):
        paint(client, 1, f"style-{user}-{turn % STYLES_EACH}")


def cycles(client: InferenceServerClient, pool: ThreadPoolExecutor, times: int) -> None:
    """`times` requests, each with an adapter that has to be loaded, from users that don't share adapters."""
    for user in [pool.submit(cycle, client, user, times // USERS) for user in range(USERS)]:
        user.result()


def paint_until(over: Event, client: InferenceServerClient) -> None:
    while not over.is_set():
        paint(client, 50)


def test_a_thousand_adapters_come_and_go_without_a_trace(server: Server) -> None:
    over = Event()
    with InferenceServerClient(server.grpc_url) as client, ThreadPoolExecutor(USERS + 1) as pool:
        load = pool.submit(paint_until, over, client)
        cycles(client, pool, WARM_UP)
        before, loaded = footprint(server), metrics(server)
        cycles(client, pool, CYCLES)
        after = footprint(server)
        eventually(lambda: metrics(server)["adapter_loads"] - loaded["adapter_loads"] >= CYCLES)
        over.set()
        load.result()
    assert metrics(server)["bank_evictions"] - loaded["bank_evictions"] >= CYCLES
    assert after.rss - before.rss <= RSS_TOLERANCE, (before, after)
    assert after.files == before.files
    assert after.shm == before.shm

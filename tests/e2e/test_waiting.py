"""Hostile and hanging registries, full banks and impatient callers: nobody else notices, and places are free again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient  # type: ignore[import-untyped]

from impasto_server.ops.serve import Server, serve
from impasto_server.settings import Settings
from impasto_server.values import MAX_CANDIDATES, MAX_STEPS
from tests.helpers import toy
from tests.helpers.waiting import eventually
from tests.helpers.wire import Tensor, ask, inputs, ints, refused, texts

from .test_metrics import metrics, steady

PATIENCE_S = 120.0
ROOM, OCCUPANTS = 16, 4
ROW = 4 * 4 * 2 * (toy.CHANNELS + toy.WIDTH)
LARGE = 6 << 30
RSS_TOLERANCE = 256 << 20
BOAT = {"PROMPT": texts("a red boat"), "STEPS": ints(2), "SEED": np.array([7], np.int64)}
LONG = {**BOAT, "STEPS": ints(MAX_STEPS), "N": ints(MAX_CANDIDATES)}


def styled(name: str) -> dict[str, Tensor]:
    return {"ADAPTER_NAMES": texts(name)}


def spoilt(registry: Path, name: str, spoil: Callable[[Path], None], part: str = "objects") -> None:
    """An adapter of which the object, or the name's file, is made something else."""
    digest = toy.register(registry, name, toy.adapter_bytes(header={"trigger": name}))
    files = {"objects": f"{digest}.safetensors", "names": f"{name}.json"}
    spoil(registry / part / files[part])


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def large(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(LARGE)


def nested(path: Path) -> None:
    path.write_bytes(b"[" * 4000)


def headed(text: str) -> bytes:
    return len(text).to_bytes(8, "little") + text.encode()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "registry"
    for number, name in enumerate(["neon", "stained-glass", "ink"]):
        toy.register(folder, name, toy.adapter_bytes(number))
    for part in ("objects", "names"):
        spoilt(folder, f"fifo-{part}", fifo, part)
        spoilt(folder, f"large-{part}", large, part)
    spoilt(folder, "nested-names", nested, "names")
    toy.register(folder, "nested-header", headed("[" * 500_000))
    toy.register(folder, "nested-metadata", headed(json.dumps({"__metadata__": {"impasto": "[" * 500_000}})))
    for stages in (59, 61, 63, 64):
        toy.register(folder, f"s{stages}", toy.embedding_bytes(stages, stages))
    return folder


@pytest.fixture(scope="module")
def server(toy_bundle: Path, registry: Path) -> Iterator[Server]:
    """Room for sixteen requests, and for one mix at a time; batches of one request."""
    settings = Settings(toy_bundle, registry, "onnxruntime", "f32", threads=1, max_requests=ROOM, max_lanes=2)
    with serve(replace(settings, page_rank=4, bank_bytes=2 * ROW)) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.grpc_url) as client:
        yield client


@contextmanager
def occupied(server: Server, client: InferenceServerClient) -> Iterator[None]:
    """The bank's only page is in use all the while: whoever else needs it waits until the end."""
    over, steps = Event(), metrics(server)["steps"]

    def occupy() -> None:
        while not over.is_set():
            ask(client, **LONG, **styled("neon"))

    with ThreadPoolExecutor(OCCUPANTS) as pool:
        occupants = [pool.submit(occupy) for _ in range(OCCUPANTS)]
        try:
            eventually(lambda: metrics(server)["steps"] > steps, PATIENCE_S)
            yield
        finally:
            over.set()
    for occupant in occupants:
        occupant.result()


def rss(server: Server) -> int:
    page = os.sysconf("SC_PAGE_SIZE")
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for pid in server.stubs)


@pytest.mark.parametrize("part", ["objects", "names"])
def test_a_fifo_in_the_registry_is_refused_however_many_ask_for_it(part: str, client: InferenceServerClient) -> None:
    with ThreadPoolExecutor(ROOM) as pool:
        refusals = [pool.submit(refused, client, **BOAT, **styled(f"fifo-{part}")) for _ in range(ROOM)]
        for status, said in (refusal.result(PATIENCE_S) for refusal in refusals):
            assert status == "INVALID_ARGUMENT"
            assert said.startswith(f"ADAPTER_NAMES: adapter 'fifo-{part}' can't be used: its ")
    assert ask(client, **BOAT)["IMAGE"]
    assert ask(client, **BOAT, **styled("neon"))["IMAGE"]


@pytest.mark.parametrize("part", ["objects", "names"])
def test_what_is_far_too_large_is_refused_unread(part: str, server: Server, client: InferenceServerClient) -> None:
    ask(client, **BOAT, **styled("neon"))
    before = rss(server)
    for _ in range(3):
        status, said = refused(client, **BOAT, **styled(f"large-{part}"))
        assert status == "INVALID_ARGUMENT"
        assert f"adapter 'large-{part}' can't be used: its " in said
        assert rss(server) - before < RSS_TOLERANCE
    assert ask(client, **BOAT)["IMAGE"]


@pytest.mark.parametrize("part", ["header", "metadata", "names"])
def test_json_that_is_nested_too_deeply_is_damage(part: str, client: InferenceServerClient) -> None:
    status, said = refused(client, **BOAT, **styled(f"nested-{part}"))
    assert status == "INVALID_ARGUMENT"
    assert f"adapter 'nested-{part}' can't be used: it" in said


def test_embeddings_whose_stages_have_too_many_in_common_are_refused(client: InferenceServerClient) -> None:
    prompt = texts("a <s59> <s61> <s63> <s64>")
    status, said = refused(client, **{**BOAT, "PROMPT": prompt})
    assert status == "INVALID_ARGUMENT"
    assert said.startswith("PROMPT: the least common multiple of 59, 61, 63, 64 stages is 14511168, more than 4096")
    assert ask(client, **{**BOAT, "PROMPT": texts("a <s63> <s64>")})["IMAGE"]


def test_a_deadline_passes_while_a_request_waits_for_a_row(server: Server, client: InferenceServerClient) -> None:
    with occupied(server, client):
        status, said = refused(client, 500_000, **BOAT, **styled("stained-glass"))
        assert "no image within 0.5 s (0 of 2 steps were done)" in said
        assert status == "CANCELLED"  # of which Triton has a code, as of a deadline it has none
        assert ask(client, **BOAT)["IMAGE"]
    assert ask(client, **BOAT, **styled("stained-glass"))["IMAGE"]


def test_who_leaves_while_it_waits_for_a_row_gives_its_place_back(
    server: Server, client: InferenceServerClient
) -> None:
    before = steady(server)
    with occupied(server, client):
        calls: list[Any] = [
            client.async_infer("stylize", inputs({**BOAT, **styled("ink")}), lambda result, error: None)
            for _ in range(ROOM - OCCUPANTS)
        ]
        eventually(lambda: metrics(server)["requests"] >= len(calls) + 1, PATIENCE_S)
        for call in calls:
            call.cancel()
        eventually(lambda: metrics(server)["cancelled"] - before["cancelled"] == len(calls), PATIENCE_S)
        eventually(lambda: metrics(server)["requests"] <= OCCUPANTS, PATIENCE_S)
        assert ask(client, **BOAT)["IMAGE"]
    assert ask(client, **BOAT, **styled("ink"))["IMAGE"]

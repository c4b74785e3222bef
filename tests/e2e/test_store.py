"""Two servers on one registry in an object store: a name that moves, an outage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import InferenceServerClient  # type: ignore[import-untyped]

from impasto_export.adapters.bucket import Bucket
from impasto_export.stores import Store
from impasto_server.ops.serve import serve
from impasto_server.settings import Settings
from tests.helpers import toy
from tests.helpers.stores import BUCKET, S3, s3_server
from tests.helpers.waiting import eventually
from tests.helpers.wire import ask, ints, refused, texts

ADDRESS = f"s3://{BUCKET}/adapters"
PLAIN = {"PROMPT": texts("a boat"), "STEPS": ints(1)}


@dataclass
class Fleet:
    """Two servers, each with a disk of its own, and the store of both."""

    s3: S3
    registry: Bucket
    clients: list[InferenceServerClient]


@pytest.fixture(scope="module")
def fleet(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with ExitStack() as stack:
        s3 = stack.enter_context(s3_server())
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in s3.environment.items():
            environment.setenv(name, value)
        clients = []
        for number in range(2):
            cache = tmp_path_factory.mktemp(f"machine-{number}")
            settings = Settings(toy_bundle, ADDRESS, "onnxruntime", "f32", threads=1, registry_cache=cache)
            server = stack.enter_context(serve(settings))
            clients.append(stack.enter_context(InferenceServerClient(server.grpc_url)))
        yield Fleet(s3, Bucket(Store.at(ADDRESS)), clients)


def painted(client: InferenceServerClient, name: str) -> dict[str, Any]:
    """META of a picture with this adapter."""
    found: dict[str, Any] = json.loads(ask(client, **PLAIN, ADAPTER_NAMES=texts(name))["META"])
    return found


def worn(client: InferenceServerClient, name: str) -> str:
    """The digest of the adapter that a picture was painted with."""
    digest: str = painted(client, name)["adapters"][0]["digest"]
    return digest


def test_both_servers_follow_a_name(fleet: Fleet) -> None:
    """Within a second by design: bucket.FRESH_S. Here it need only come about."""
    first = fleet.registry.put("ink", toy.adapter_bytes(1))
    assert [worn(client, "ink") for client in fleet.clients] == [first] * 2
    second = fleet.registry.put("ink", toy.adapter_bytes(2))
    for client in fleet.clients:
        eventually(lambda client=client: worn(client, "ink") == second)  # type: ignore[misc]


def test_the_catalogue_lists_what_the_store_has(fleet: Fleet) -> None:
    digest = fleet.registry.put("listed", toy.adapter_bytes(7))
    answer = fleet.clients[0].infer("catalogue", [])
    listed = json.loads(answer.as_numpy("CATALOGUE")[0])
    assert (digest, ["toy"]) in [(one["digest"], one["fits"]) for one in listed["adapters"]]
    assert not listed["unread"]


def test_what_is_here_outlives_the_store_and_what_is_not_waits_for_it(fleet: Fleet) -> None:
    hot = fleet.registry.put("ink", toy.adapter_bytes(1))
    cold = fleet.registry.put("cold", toy.adapter_bytes(5))
    client = fleet.clients[0]
    eventually(lambda: worn(client, "ink") == hot)
    fleet.s3.down()
    try:
        assert ask(client, **PLAIN)["IMAGE"]
        eventually(lambda: bool(painted(client, "ink")["warnings"]))
        with ThreadPoolExecutor(8) as threads:
            metas, refusals = (
                threads.map(painted, [client] * 8, ["ink"] * 8),
                refused(client, **PLAIN, ADAPTER_NAMES=texts("cold")),
            )
            warnings = {warning.partition(" s ago")[2] for meta in metas for warning in meta["warnings"]}
        assert warnings == {", since the registry's store does not answer"}
        assert refusals == (
            "UNAVAILABLE",
            "ADAPTER_NAMES: adapter 'cold': the registry's store does not answer; try again later, or name no adapter",
        )
    finally:
        fleet.s3.up()
    eventually(lambda: not painted(client, "ink")["warnings"])
    assert worn(client, "cold") == cold

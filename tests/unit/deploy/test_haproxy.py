"""deploy/haproxy/haproxy.cfg does what docs/fleet.md says, in a real HAProxy before three stand-ins for machines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from math import ceil
from typing import Any

import pytest

from impasto_client import Client, Generation
from tests.helpers.machines import Machine
from tests.helpers.proxies import CONFIG, Proxy, proxied
from tests.helpers.waiting import PATIENCE_S, eventually

ADAPTERS = [f"style-{place}" for place in range(25)]  # no multiple of the machines: taking turns would show
BOUND = 1.5  # hash-balance-factor


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    machines = {name: Machine(name) for name in "abc"}
    with ExitStack() as cleanup:
        for machine in machines.values():
            machine.start()
            cleanup.callback(machine.stop)
        yield cleanup.enter_context(proxied(machines, tmp_path_factory.mktemp("haproxy")))


@pytest.fixture
def proxy(running: Proxy) -> Iterator[Proxy]:
    """With all machines up, before and after."""
    yield running
    for machine in running.machines.values():
        machine.ready, machine.dies = True, False
        machine.go_on.set()
    for name in running.machines:
        eventually(lambda name=name: running.is_in(name, "UP"))  # type: ignore[misc]


def places(proxy: Proxy) -> dict[str, str]:
    """Which machine answers for each adapter."""
    return {adapter: quietly(proxy, adapter) for adapter in ADAPTERS}


def quietly(proxy: Proxy, adapter: str) -> str:
    proxy.rest()
    return proxy.server(adapter)


def paint(proxy: Proxy, adapter: str) -> Generation:
    proxy.rest()
    with Client(f"127.0.0.1:{proxy.grpc_port}", timeout=PATIENCE_S) as client:
        return client.generate("a boat", adapters=adapter)


def test_requests_with_the_same_adapters_go_to_the_same_server(proxy: Proxy) -> None:
    found = places(proxy)
    assert places(proxy) == found
    assert set(found.values()) == {*proxy.machines}


def test_requests_without_adapters_are_spread(proxy: Proxy) -> None:
    assert min(Counter(proxy.server(None) for _ in range(60))[name] for name in proxy.machines) > 10


def test_an_adapter_that_many_want_spills_over(proxy: Proxy) -> None:
    asked = 12
    for machine in proxy.machines.values():
        machine.go_on.clear()
    with ThreadPoolExecutor(asked) as pool:
        answers = [pool.submit(proxy.server, "style-1") for _ in range(asked)]
        eventually(lambda: sum(machine.held for machine in proxy.machines.values()) == asked)
        held = {machine.name: machine.held for machine in proxy.machines.values()}
        for machine in proxy.machines.values():
            machine.go_on.set()
        assert Counter(answer.result() for answer in answers) == {name: n for name, n in held.items() if n}
    assert max(held.values()) <= ceil(BOUND * asked / len(proxy.machines))


def test_a_dead_servers_adapters_move_and_come_back_and_others_stay(proxy: Proxy) -> None:
    before = places(proxy)
    dead = proxy.machines["b"]
    dead.stop()
    assert "b" not in places(proxy).values(), "a refused connection is tried at another server at once"
    eventually(lambda: proxy.is_in("b", "DOWN"))
    moved = places(proxy)
    assert places(proxy) == moved
    assert {adapter: moved[adapter] for adapter, place in before.items() if place != "b"} == {
        adapter: place for adapter, place in before.items() if place != "b"
    }
    assert {moved[adapter] for adapter, place in before.items() if place == "b"} == {"a", "c"}, "spread over the others"
    dead.start()
    eventually(lambda: proxy.is_in("b", "UP"))
    assert places(proxy) == before


def test_a_request_whose_server_is_killed_is_answered_by_another(proxy: Proxy) -> None:
    first = quietly(proxy, "style-1")
    machine = proxy.machines[first]
    machine.go_on.clear()
    proxy.rest()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(proxy.server, "style-1")
        eventually(lambda: machine.held == 1)
        machine.kill()
        try:
            assert answer.result() != first
        finally:
            machine.start()


def test_a_request_too_large_for_the_buffer_is_not_repeated(proxy: Proxy) -> None:
    first = quietly(proxy, "style-1")
    proxy.rest()
    proxy.machines[first].dies = True
    size = int(re.findall(r"tune.bufsize (\d+)", CONFIG)[0])
    assert proxy.post("style-1", b" " * (2 * size)).status_code == 502
    proxy.machines[first].dies = False
    proxy.rest()
    assert proxy.post("style-1", b" " * (2 * size)).json()["server"] == first, "it passes otherwise"


def test_a_server_that_stops_finishes_what_it_has_and_gets_nothing_new(proxy: Proxy) -> None:
    first = quietly(proxy, "style-1")
    machine = proxy.machines[first]
    machine.go_on.clear()
    proxy.rest()
    with ThreadPoolExecutor(1) as pool:
        held: Future[str] = pool.submit(proxy.server, "style-1")
        eventually(lambda: machine.held == 1)
        machine.ready = False
        eventually(lambda: proxy.is_in(first, "DOWN"))
        assert proxy.server("style-1") != first
        machine.go_on.set()
        assert held.result() == first


def test_an_operator_drains_a_server(proxy: Proxy) -> None:
    first = quietly(proxy, "style-1")
    try:
        proxy.admin(f"set server http/{first} state drain")
        assert proxy.state("http", first) == "DRAIN"
        assert quietly(proxy, "style-1") != first
    finally:
        proxy.admin(f"set server http/{first} state ready")
    assert quietly(proxy, "style-1") == first


def test_the_caller_is_named_to_the_gateway(proxy: Proxy) -> None:
    assert proxy.post("style-1").json()["from"] == "127.0.0.1"


def test_grpc_goes_by_the_adapters_that_a_client_names(proxy: Proxy) -> None:
    places = {adapter: paint(proxy, adapter).warnings for adapter in ADAPTERS}
    assert {adapter: paint(proxy, adapter).warnings for adapter in ADAPTERS} == places
    assert set(places.values()) == {(name,) for name in proxy.machines}


def test_requests_of_one_connection_go_to_different_servers(proxy: Proxy) -> None:
    with Client(f"127.0.0.1:{proxy.grpc_port}", timeout=PATIENCE_S) as client:
        assert len({client.generate("a boat", adapters=adapter).warnings for adapter in ADAPTERS}) == 3


def test_a_stream_passes_part_by_part(proxy: Proxy) -> None:
    for machine in proxy.machines.values():
        machine.go_on.clear()
    with Client(f"127.0.0.1:{proxy.grpc_port}", timeout=PATIENCE_S) as client:
        parts = client.stream("a boat", adapters="style-1", steps=2)
        first = next(parts)  # while its machine still holds the rest
        for machine in proxy.machines.values():
            machine.go_on.set()
        rest: list[Any] = [*parts]
    assert not isinstance(first, Generation)
    assert isinstance(rest[-1], Generation)


def test_grpc_goes_to_another_server_when_one_is_down(proxy: Proxy) -> None:
    (first,) = paint(proxy, "style-1").warnings
    machine = proxy.machines[first]
    machine.stop()
    try:
        assert paint(proxy, "style-1").warnings != (first,), "a refused connection is tried elsewhere at once"
        eventually(lambda: proxy.is_in(first, "DOWN"))
        assert paint(proxy, "style-1").warnings != (first,)
    finally:
        machine.start()
    eventually(lambda: proxy.is_in(first, "UP"))
    assert paint(proxy, "style-1").warnings == (first,)

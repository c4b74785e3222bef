from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Event

import pytest

from impasto_server.adapters.access import Access, Attempt
from impasto_server.adapters.adapter import Adapter
from impasto_server.adapters.registry import Registry
from impasto_server.adapters.residency import Kind, Named, Residency
from impasto_server.bundle import Manifest
from impasto_server.errors import NoAnswer, NotFound
from impasto_server.stats import Stats

PATIENCE_S = 60.0


@pytest.fixture
def go() -> Iterator[Event]:
    event = Event()
    yield event
    event.set()


@pytest.fixture
def open_residency(
    registry: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Residency]]:
    """One that gives the registry 0.3 seconds to answer."""
    monkeypatch.setattr("impasto_server.adapters.residency.Access", partial(Access, limit_s=2.0, stall_s=0.05))
    opened: list[Residency] = []

    def open_() -> Residency:
        opened.append(Residency(Registry(registry), manifest, 1 << 20, Stats()))
        return opened[-1]

    yield open_
    for residency in opened:
        residency.close()


def hanging(monkeypatch: pytest.MonkeyPatch, go: Event) -> None:
    """Every object takes until `go`, and the first reads of it are told of in no way."""
    load = Registry.load

    def hang(self: Registry, digest: str, name: str, manifest: Manifest, attempt: Attempt | None = None) -> Kind:
        assert go.wait(PATIENCE_S)
        return load(self, digest, name, manifest, attempt)

    monkeypatch.setattr(Registry, "load", hang)


def loading(residency: Residency, name: str) -> Future[Kind]:
    digest = residency.resolve(name).result(PATIENCE_S).digest
    return residency.load([Named(name, digest)])[digest]


def test_a_name_is_looked_up_and_its_adapter_loaded(open_residency: Callable[[], Residency]) -> None:
    residency = open_residency()
    assert isinstance(loading(residency, "neon").result(PATIENCE_S), Adapter)
    with pytest.raises(NotFound, match="^ADAPTER_NAMES: no adapter 'nein'; did you mean 'neon'"):
        residency.resolve("nein").result(PATIENCE_S)


def test_all_who_wait_for_one_that_hangs_are_told_and_who_comes_later_is_served(
    open_residency: Callable[[], Residency], go: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    residency = open_residency()
    hanging(monkeypatch, go)
    waiting = [loading(residency, "neon") for _ in range(5)]
    assert len({id(one) for one in waiting}) == 1
    for one in waiting:
        with pytest.raises(NoAnswer, match=r"^ADAPTER_NAMES: adapter 'neon': the registry did not answer within 2 s"):
            one.result(PATIENCE_S)
    later = loading(residency, "neon")
    assert later is not waiting[0]
    go.set()
    assert isinstance(later.result(PATIENCE_S), Adapter)


def test_names_are_looked_up_while_objects_hang(
    open_residency: Callable[[], Residency], go: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    residency = open_residency()
    hanging(monkeypatch, go)
    hung = [residency.load([Named("neon", f"{number:064x}")]) for number in range(20)]
    assert residency.resolve("neon").result(PATIENCE_S)
    go.set()
    for one in hung:
        for outcome in one.values():
            assert isinstance(outcome.exception(PATIENCE_S), NoAnswer | NotFound)


def test_nothing_is_held_for_those_who_were_told(
    open_residency: Callable[[], Residency], go: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    residency = open_residency()
    assert loading(residency, "deep").result(PATIENCE_S)
    hanging(monkeypatch, go)
    assert isinstance(loading(residency, "neon").exception(PATIENCE_S), NoAnswer)
    while residency._loading:  # let go of in the thread that told them, a moment later
        pass

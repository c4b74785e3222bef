"""A server that ends is started again, ever later, until it isn't worth it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Event

import pytest

from impasto_deploy.ray import keeper as module
from impasto_deploy.ray.keeper import GaveUp, Keeper
from impasto_deploy.ray.server import DidNotStart
from tests.helpers.waiting import PATIENCE_S, eventually


class Standin:
    """A server that runs until `over` is set."""

    def __init__(self, url: str, starts: bool = True) -> None:
        self.url, self.starts = url, starts
        self.over = Event()

    def ready(self) -> str:
        if not self.starts:
            raise DidNotStart("bundle: there is none")
        return self.url

    def ended(self) -> str:
        assert self.over.wait(PATIENCE_S)
        return f"{self.url} ended"

    def stop(self, limit_s: float) -> None:
        self.over.set()


class Servers:
    """Those that a keeper started, in order."""

    def __init__(self, *fail_at: int) -> None:
        self.fail_at = fail_at
        self.started: list[Standin] = []
        self.said: list[str] = []

    def start(self) -> Standin:
        self.started.append(Standin(f"server-{len(self.started)}", len(self.started) not in self.fail_at))
        return self.started[-1]


@contextmanager
def kept(servers: Servers) -> Iterator[Keeper]:
    keeper = Keeper(servers.start, servers.said.append, first_s=0.0)
    try:
        yield keeper
    finally:
        keeper.close(PATIENCE_S)


def is_given_up(keeper: Keeper) -> bool:
    try:
        _ = keeper.url
    except GaveUp:
        return True
    return False


def test_the_next_server_has_another_url() -> None:
    servers = Servers()
    with kept(servers) as keeper:
        assert keeper.wait(PATIENCE_S) == "server-0"
        servers.started[0].over.set()
        eventually(lambda: keeper.url == "server-1")
    assert servers.said == ["server-0 ended\nanother is started in 0 s"]


def test_closing_ends_the_server_and_starts_no_other() -> None:
    servers = Servers()
    with kept(servers) as keeper:
        keeper.wait(PATIENCE_S)
    assert servers.started[0].over.is_set()
    assert len(servers.started) == 1


def test_a_first_server_that_can_not_start_is_not_tried_again() -> None:
    servers = Servers(0)
    with kept(servers) as keeper, pytest.raises(GaveUp, match="the server can't start:\nbundle: there is none"):
        keeper.wait(PATIENCE_S)
    assert len(servers.started) == 1


def test_a_later_one_is() -> None:
    servers = Servers(1)
    with kept(servers) as keeper:
        keeper.wait(PATIENCE_S)
        servers.started[0].over.set()
        eventually(lambda: keeper.url == "server-2")


def test_it_gives_up_when_servers_end_too_often() -> None:
    servers = Servers()
    with kept(servers) as keeper:
        keeper.wait(PATIENCE_S)
        for at in range(module.DEATHS + 1):
            eventually(lambda at=at: len(servers.started) > at)  # type: ignore[misc]
            servers.started[at].over.set()
        eventually(lambda: is_given_up(keeper))
    assert len(servers.started) == module.DEATHS + 1


def test_pauses_grow() -> None:
    servers = Servers()
    with closing(_Slow(servers)) as slow:
        slow.keeper.wait(PATIENCE_S)
        servers.started[0].over.set()
        eventually(lambda: bool(servers.said))
        assert servers.said == ["server-0 ended\nanother is started in 30 s"]  # the longest, however long the first


class _Slow:
    def __init__(self, servers: Servers) -> None:
        self.keeper = Keeper(servers.start, servers.said.append, first_s=1000.0)

    def close(self) -> None:
        self.keeper.close(PATIENCE_S)


def test_a_server_that_takes_too_long() -> None:
    servers, never = Servers(), Event()

    class Hanging(Standin):
        def ready(self) -> str:
            never.wait(PATIENCE_S)
            return self.url

        def stop(self, limit_s: float) -> None:
            never.set()
            super().stop(limit_s)

    keeper = Keeper(lambda: Hanging("slow"), servers.said.append)
    with pytest.raises(GaveUp, match="the server was not ready after 0.01 s; see its log, or raise start_s"):
        keeper.wait(0.01)
    keeper.close(PATIENCE_S)

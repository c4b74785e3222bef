"""When a server that died is started again, and when it isn't."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from impasto_server.errors import SetupError
from impasto_server.ops.serve import Plan, ServerDied
from impasto_server.ops.supervise import LONGEST_PAUSE_S, GaveUp, Restarts, Supervisor


class FakeServer:
    """Dies when it is told to; may be one that never becomes ready."""

    def __init__(self, starts: bool = True) -> None:
        self.stubs = [1]
        self.starts = starts
        self.died = False
        self.stopped: list[float] = []

    def wait_ready(self) -> None:
        if not self.starts:
            raise SetupError("it did not start")

    def check(self) -> None:
        if self.died:
            raise ServerDied("it died")

    def stop(self, grace_s: float = 0.0) -> bool:
        self.stopped.append(grace_s)
        return True


class FakePlan:
    """Starts servers in turn."""

    grace_s = 7.0

    def __init__(self, *servers: FakeServer) -> None:
        self._servers = iter(servers)

    def start(self, on_log: Callable[[str], None]) -> FakeServer:
        return next(self._servers)


def supervisor(limit: int, *servers: FakeServer) -> tuple[Supervisor, list[str]]:
    said: list[str] = []
    return Supervisor(cast(Plan, FakePlan(*servers)), Restarts(limit), lambda line: None, said.append), said


def test_pauses_grow_with_the_deaths_and_have_an_end() -> None:
    restarts = Restarts(20)
    pauses = [restarts.died(now) for now in range(10)]
    assert pauses[:5] == [0, 1, 2, 4, 8]
    assert pauses[-1] == LONGEST_PAUSE_S


def test_deaths_of_long_ago_are_forgotten() -> None:
    restarts = Restarts(2, window_s=100)
    assert [restarts.died(now) for now in (0, 50, 120, 190)] == [0, 1, 1, 1]
    with pytest.raises(GaveUp, match="it died 3 times within"):
        restarts.died(191)


def test_a_dead_server_is_followed_by_another() -> None:
    first, second = FakeServer(), FakeServer()
    kept, said = supervisor(5, first, second)
    with kept:
        kept.look()
        assert cast(object, kept.server) is first
        first.died = True
        kept.look()
        assert cast(object, kept.server) is second
    assert first.stopped == [0]
    assert second.stopped == [FakePlan.grace_s]
    assert said[0].startswith("it died\nit is restarted in 0 s (death 1")
    assert said[1].startswith("ready again after")


def test_one_that_does_not_start_again_counts_as_a_death() -> None:
    first, second = FakeServer(), FakeServer(starts=False)
    kept, _ = supervisor(1, first, second)
    with kept:
        first.died = True
        with pytest.raises(GaveUp, match="^it did not start\nit died 2 times"):
            kept.look()
    assert second.stopped[0] == 0


def test_without_restarts_the_first_death_is_the_last() -> None:
    first = FakeServer()
    kept, said = supervisor(0, first)
    with kept:
        first.died = True
        with pytest.raises(GaveUp, match="^it died\nrestarting is turned off"):
            kept.look()
    assert not said


def test_a_first_start_that_fails_is_no_death() -> None:
    first = FakeServer(starts=False)
    kept, _ = supervisor(5, first)
    with pytest.raises(SetupError, match="it did not start"), kept:
        pass
    assert first.stopped == [0]

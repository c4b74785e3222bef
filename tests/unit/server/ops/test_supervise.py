"""When a server that died is started again, and when it isn't."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

import pytest

from impasto_server.errors import SetupError
from impasto_server.ops.serve import NONE_YET, Plan, ServerDied
from impasto_server.ops.supervise import LONGEST_PAUSE_S, WINDOW_S, GaveUp, Restarts, Supervisor
from impasto_server.stats import Reason


class FakeServer:
    """Dies when it is told to; may be one that never becomes ready."""

    def __init__(self, starts: bool = True) -> None:
        self.starts = starts
        self.was_ready = False
        self.died: Reason | None = None
        self.stopped: list[float] = []
        self.ended = 0

    def wait_ready(self) -> None:
        if not self.starts:
            raise SetupError("it did not start")
        self.was_ready = True

    def check(self) -> None:
        if self.died is not None:
            raise ServerDied("it died", self.died)

    def stop(self, grace_s: float = 0.0) -> bool:
        self.stopped.append(grace_s)
        return True

    def end(self) -> None:
        self.ended += 1


class FakePlan:
    """Starts servers in turn."""

    grace_s = 7.0

    def __init__(self, *servers: FakeServer) -> None:
        self._servers = iter(servers)
        self.told: list[dict[Reason, int]] = []

    def start(self, on_log: Callable[[str], None], restarts: Mapping[Reason, int] = NONE_YET) -> FakeServer:
        self.told.append(dict(restarts))
        return next(self._servers)


@dataclass
class Clock:
    """Moves when somebody rests."""

    now: float = 1000.0
    rests: list[float] = field(default_factory=list)

    def rest(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.now += seconds


def supervisor(limit: int, *servers: FakeServer) -> tuple[Supervisor, list[str]]:
    kept, said, _, _ = timed(limit, *servers)
    return kept, said


def timed(limit: int, *servers: FakeServer) -> tuple[Supervisor, list[str], FakePlan, Clock]:
    said: list[str] = []
    plan, clock = FakePlan(*servers), Clock()
    kept = Supervisor(
        cast(Plan, plan), Restarts(limit), lambda line: None, said.append, lambda: clock.now, lambda s: clock.rest(s)
    )
    return kept, said, plan, clock


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
        first.died = "server_ended"
        kept.look()
        assert cast(object, kept.server) is second
    assert (first.ended, first.stopped) == (1, [])  # nothing of it can be finished
    assert second.stopped == [FakePlan.grace_s]
    assert said[0].startswith("it died\nit is restarted in 0 s (death 1")
    assert said[1].startswith("ready again after")


def test_one_that_does_not_start_again_counts_as_a_death() -> None:
    first, second = FakeServer(), FakeServer(starts=False)
    kept, _ = supervisor(1, first, second)
    with kept:
        first.died = "server_ended"
        with pytest.raises(GaveUp, match="^it did not start\nit died 2 times"):
            kept.look()
    assert second.ended


def test_without_restarts_the_first_death_is_the_last() -> None:
    first = FakeServer()
    kept, said = supervisor(0, first)
    with kept:
        first.died = "server_ended"
        with pytest.raises(GaveUp, match="^it died\nrestarting is turned off"):
            kept.look()
    assert not said


def test_a_first_start_that_fails_is_no_death() -> None:
    first = FakeServer(starts=False)
    kept, _ = supervisor(5, first)
    with pytest.raises(SetupError, match="it did not start"), kept:
        pass
    assert (first.ended, first.stopped) == (1, [])


def test_one_that_was_told_to_stop_finishes_what_it_has() -> None:
    first, second = FakeServer(), FakeServer()
    kept, _ = supervisor(5, first, second)
    with kept:
        first.died = "told_to_stop"
        kept.look()
    assert (first.ended, first.stopped) == (0, [FakePlan.grace_s])


def test_a_signal_while_the_next_one_starts_ends_that_one_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = FakeServer(), FakeServer()
    kept, _ = supervisor(5, first, second)

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(second, "wait_ready", interrupted)
    first.died = "hang"
    with pytest.raises(KeyboardInterrupt), kept:
        kept.look()
    assert (second.ended, second.stopped) == (1, [])


def test_each_server_is_told_how_often_others_were_restarted_before_it_and_why() -> None:
    servers = [FakeServer(), FakeServer(starts=False), FakeServer(), FakeServer()]
    kept, _, plan, _ = timed(5, *servers)
    with kept:
        servers[0].died = "hang"
        kept.look()
        servers[2].died = "hang"
        kept.look()
    assert plan.told == [{}, {"hang": 1}, {"hang": 1, "failed_start": 1}, {"hang": 2, "failed_start": 1}]


def test_one_that_dies_again_and_again_after_its_start_waits_ever_longer_until_it_has_been_well_for_long() -> None:
    servers = [FakeServer() for _ in range(7)]
    kept, said, _, clock = timed(4, *servers)
    with kept:
        for server in servers[:4]:
            clock.now += 5  # so long does it live
            server.died = "model_ended"
            kept.look()
        assert clock.rests == [0, 1, 2, 4]
        assert "death 4 of 4 allowed within 10 minutes" in said[-2]
        clock.now += WINDOW_S
        servers[4].died = "model_ended"
        kept.look()
        assert clock.rests[-1] == 0


def test_a_signal_while_it_waits_for_a_restart_ends_it_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = FakeServer(), FakeServer()
    kept, _, plan, clock = timed(5, first, second)

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(clock, "rest", interrupted)
    first.died = "hang"
    with pytest.raises(KeyboardInterrupt), kept:
        kept.look()
    assert len(plan.told) == 1
    assert kept.stopped_in_order

"""Turns: in order for each, one at a time, the small before the large, and nobody waits for ever."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from threading import Event, Lock, current_thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from impasto_server.turns import PATIENCE, Order, Turns, Work, once

PATIENCE_S = 30.0
arrivals = st.lists(st.lists(st.integers(0, 20), max_size=4), min_size=1, max_size=60)


@given(arrivals)
def test_nobody_waits_longer_than_four_turns_for_each_who_was_there_before(arrivals: list[list[int]]) -> None:
    """Some come before each turn; whoever had a turn may come again as somebody else."""
    order: Order[int] = Order()
    came: dict[int, tuple[int, int]] = {}
    numbers, given = count(), 0
    while came or arrivals:
        for left in arrivals.pop(0) if arrivals else ():
            number = next(numbers)
            order.add(number, left)
            came[number] = given, len(came) + 1
        taken = order.take()
        if taken is not None:
            since, there = came.pop(taken)
            assert given - since < PATIENCE * there
            given += 1
    assert order.take() is None


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40))
def test_three_turns_of_four_are_for_whoever_has_least_left_the_fourth_for_whoever_came_first(left: list[int]) -> None:
    order: Order[int] = Order()
    for number, amount in enumerate(left):
        order.add(number, amount)
    waiting = dict(enumerate(left))
    for turn in range(1, len(left) + 1):
        taken = order.take()
        expected = min(waiting) if turn % PATIENCE == 0 else min(waiting, key=lambda number: (waiting[number], number))
        assert taken == expected
        del waiting[expected]
    assert order.take() is None


@dataclass
class Log:
    """Work that writes down its parts; the first of `held` waits until it may go on."""

    held: str = ""
    parts: list[str] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    entered: Event = field(default_factory=Event)
    may: Event = field(default_factory=Event)
    closed: list[str] = field(default_factory=list)

    def work(self, name: str, parts: int = 1) -> Work[None]:
        try:
            for done in range(parts):
                yield parts - done
                if name == self.held and not self.may.is_set():
                    self.entered.set()
                    assert self.may.wait(PATIENCE_S)
                self.parts.append(name)
                self.threads.add(current_thread().name)
        except GeneratorExit:
            self.closed.append(name)
            raise


def test_work_of_one_key_is_done_in_order_and_the_small_overtakes_the_large() -> None:
    turns: Turns[str] = Turns("test", 1)
    log = Log("first")
    turns.submit("busy", log.work("first"))
    assert log.entered.wait(PATIENCE_S)
    turns.submit("large", log.work("large", 6))
    turns.submit("large", log.work("large's second"))
    turns.submit("small", log.work("small", 2))
    log.may.set()
    turns.close()
    assert log.parts == ["first", "small", "small", *["large"] * 6, "large's second"]
    assert log.threads == {"test-0"}


def test_parts_of_one_key_never_overlap_and_all_threads_are_used() -> None:
    turns: Turns[int] = Turns("test", 3)
    lock, running, most, met = Lock(), Counter[int](), Counter[int](), Event()

    def work(key: int) -> Work[None]:
        for left in range(20, 0, -1):
            yield left
            with lock:
                running[key] += 1
                most[key] = max(most[key], running[key])
                if sum(running.values()) >= 2:
                    met.set()
            met.wait(PATIENCE_S)
            with lock:
                running[key] -= 1

    for key in range(4):
        turns.submit(key, work(key))
        turns.submit(key, work(key))
    turns.close()
    assert met.is_set()
    assert most == dict.fromkeys(range(4), 1)


def test_work_that_fails_is_told_in_the_log_and_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    turns: Turns[int] = Turns("test", 1)

    def failing() -> Work[None]:
        yield 1
        raise RuntimeError("broken")

    log = Log()
    for key in range(5):
        turns.submit(key, failing())
        turns.submit(key, log.work("behind"))
    turns.close()
    assert log.parts == ["behind"] * 5
    assert [record.message for record in caplog.records] == ["work failed"] * 5


def test_what_is_dropped_is_closed_and_holds_nobody_up() -> None:
    turns: Turns[str] = Turns("test", 1)
    log = Log("first")
    turns.submit("busy", log.work("first", 3))
    turns.submit("busy", log.work("behind it"))
    assert log.entered.wait(PATIENCE_S)
    waiting = log.work("waiting", 3)
    next(waiting)
    turns.submit("waiting", waiting)
    turns.submit("other", log.work("other"))
    turns.drop("waiting")
    assert log.closed == ["waiting"]
    turns.drop("busy")
    turns.drop("nobody")
    log.may.set()
    turns.close()
    assert log.parts == ["first", "other"]
    assert log.closed == ["waiting", "first"]


def test_closing_does_what_was_taken_and_takes_nothing_new() -> None:
    turns: Turns[int] = Turns("test", 2)
    log = Log()
    for key in range(20):
        turns.submit(key, log.work(str(key), 3))
    turns.close()
    assert Counter(log.parts) == {str(key): 3 for key in range(20)}
    with pytest.raises(RuntimeError, match="closed threads"):
        turns.submit(1, once(lambda: None))

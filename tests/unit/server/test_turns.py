"""Turns: in order for each, one at a time, the small before the large, nobody waits for ever, and the room is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Event, Lock, current_thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from impasto_server.turns import PATIENCE, Need, Order, Turns, Work, once

PATIENCE_S = 30.0
ROOM = 10.0

needs = st.builds(Need, st.integers(0, 20), st.integers(0, int(ROOM)))


@dataclass
class Script:
    """Draws for a simulation: who comes with what before each turn, and how many turns may overlap."""

    arrivals: list[list[Need]]
    overlapping: int


scripts = st.builds(Script, st.lists(st.lists(needs, max_size=4), min_size=1, max_size=60), st.integers(1, 3))


@dataclass
class Witness:
    """An Order under a script, and what was seen of it: how many turns each waited, and how many waited with it."""

    script: Script
    order: Order[int] = field(default_factory=lambda: Order(ROOM))
    came: dict[int, tuple[int, int]] = field(default_factory=dict)
    waited: list[tuple[int, int]] = field(default_factory=list)
    running: list[Need] = field(default_factory=list)
    given: int = 0

    def run(self) -> Iterator[None]:
        """One turn after another until nobody is left; stops after each for whoever looks at it."""
        numbers = iter(range(10**6))
        for arrivals in self.script.arrivals:
            for need in arrivals:
                number = next(numbers)
                self.order.add(number, need)
                self.came[number] = self.given, len(self.came) + 1
            self._turn()
            yield
        while self.came:
            self._turn()
            yield

    def _turn(self) -> None:
        taken = self.order.take() if len(self.running) < self.script.overlapping else None
        if taken is None:
            if self.running:
                self.order.over(self.running.pop(0))
            else:
                assert not self.came, "nobody runs, someone waits, and nobody has a turn"
            return
        number, need = taken
        came, beside = self.came.pop(number)
        self.waited.append((self.given - came, beside))
        self.given += 1
        self.running.append(need)


@given(scripts)
def test_nobody_waits_longer_than_four_turns_for_each_who_was_there_before(script: Script) -> None:
    witness = Witness(script)
    for _ in witness.run():
        pass
    assert len(witness.waited) == sum(map(len, script.arrivals))
    for turns, beside in witness.waited:
        assert turns < PATIENCE * beside


@given(scripts)
def test_those_who_have_a_turn_never_hold_more_than_the_room(script: Script) -> None:
    witness = Witness(script)
    for _ in witness.run():
        assert sum(need.holds for need in witness.running) <= ROOM


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40))
def test_three_turns_of_four_are_for_whoever_has_least_left_the_fourth_for_whoever_came_first(left: list[int]) -> None:
    order: Order[int] = Order()
    for number, amount in enumerate(left):
        order.add(number, Need(amount))
    waiting = dict(enumerate(left))
    for turn in range(1, len(left) + 1):
        taken = order.take()
        assert taken is not None
        expected = min(waiting) if turn % PATIENCE == 0 else min(waiting, key=lambda number: (waiting[number], number))
        assert taken[0] == expected
        del waiting[expected]
    assert order.take() is None


def test_who_needs_more_room_than_is_left_lets_others_go_first_but_not_for_ever() -> None:
    order: Order[str] = Order(10)
    order.add("a", Need(1, 6))
    assert order.take() == ("a", Need(1, 6))
    order.add("large", Need(0, 5))
    for name in "bcd":
        order.add(name, Need(1, 1))
    assert [order.take(), order.take()] == [("b", Need(1, 1)), ("c", Need(1, 1))]
    assert order.take() is None  # the fourth turn is the large one's, and d waits with it
    order.over(Need(1, 6))
    assert order.take() == ("large", Need(0, 5))
    assert order.take() == ("d", Need(1, 1))


@dataclass
class Log:
    """Work that writes down its parts; the first of `held` waits until it may go on."""

    held: str = ""
    parts: list[str] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    entered: Event = field(default_factory=Event)
    may: Event = field(default_factory=Event)
    closed: list[str] = field(default_factory=list)

    def work(self, name: str, parts: int = 1, holds: float = 0) -> Work[None]:
        try:
            for done in range(parts):
                yield Need(parts - done, holds)
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
            yield Need(left)
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


def test_room_is_free_again_whatever_becomes_of_the_work(caplog: pytest.LogCaptureFixture) -> None:
    turns: Turns[int] = Turns("test", 2, room=1)

    def failing() -> Work[None]:
        yield Need(1, 1)
        raise RuntimeError("broken")

    log = Log()
    for key in range(5):
        turns.submit(key, failing())
    turns.submit(9, log.work("good", holds=1))
    turns.close()
    assert log.parts == ["good"]
    assert [record.message for record in caplog.records] == ["work failed"] * 5


def test_what_is_dropped_is_closed_and_holds_nobody_up() -> None:
    turns: Turns[str] = Turns("test", 1, room=1)
    log = Log("first")
    turns.submit("busy", log.work("first", 3, holds=1))
    turns.submit("busy", log.work("behind it"))
    assert log.entered.wait(PATIENCE_S)
    waiting = log.work("waiting", 3)
    next(waiting)
    turns.submit("waiting", waiting)
    turns.submit("other", log.work("other", holds=1))
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
    with pytest.raises(RuntimeError, match="threads that have ended"):
        turns.submit(1, once(lambda: None))

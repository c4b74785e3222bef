"""Whose turn it is, when not everyone fits into the batch."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from impasto_server.batch import PATIENCE, Turn, choose


def turn(who: str, **changed: Any) -> Turn[str]:
    usual = {"lanes": 2, "kind": "base", "new": False, "passed_over": 1, "remaining": 10, "time_left_s": None}
    return Turn(who, **{**usual, **changed})


def test_everyone_who_fits_is_in() -> None:
    assert choose([turn("a"), turn("b", lanes=1), turn("c")], max_lanes=5, step_s=0.1) == [("a", 2), ("b", 1), ("c", 2)]


def test_no_row_stays_empty_while_someone_waits_for_one() -> None:
    assert choose([turn("a"), turn("b"), turn("c")], max_lanes=5, step_s=0.1) == [("a", 2), ("b", 2), ("c", 1)]
    assert choose([turn("wide", lanes=9)], max_lanes=4, step_s=0.1) == [("wide", 4)]


def test_the_one_who_waited_longest_is_first() -> None:
    assert choose([turn("a"), turn("b", passed_over=3), turn("c", passed_over=2)], 4, 0.1) == [("b", 2), ("c", 2)]


def test_a_newcomer_joins_at_once() -> None:
    assert choose([turn("a", passed_over=2), turn("b", passed_over=2), turn("new", new=True)], 2, 0.1) == [("new", 2)]


def test_only_rows_of_one_kind_share_a_batch() -> None:
    turns = [turn("a"), turn("b", kind="upscale", passed_over=2), turn("c", kind="upscale")]
    assert choose(turns, 8, 0.1) == [("b", 2), ("c", 2)]


@pytest.mark.parametrize(
    ("time_left_s", "first"),
    [
        (None, "patient"),  # no deadline: its turn comes
        (10.0, "patient"),  # makes it taking turns: 2 rounds of 10 steps of 0.1 s
        (1.5, "pressed"),  # makes it only if it is in every batch
        (0.5, "patient"),  # can't make it any more: no reason to hold up others
    ],
)
def test_a_deadline_goes_first_where_that_decides_it(time_left_s: float | None, first: str) -> None:
    turns = [turn("patient", passed_over=2), turn("pressed", time_left_s=time_left_s)]
    assert choose(turns, 2, 0.1) == [(first, 2)]


@dataclass
class Waiting:
    name: int
    remaining: int
    lanes: int
    deadline_s: float | None
    passed_over: int = 0
    done: int = 0
    answered: int = 0


PEOPLE = st.tuples(st.integers(1, 30), st.integers(1, 3), st.none() | st.floats(0.1, 10))


@given(st.lists(PEOPLE, min_size=1, max_size=12), st.integers(1, 8))
def test_nobody_starves_whatever_the_deadlines(people: list[tuple[int, int, float | None]], max_lanes: int) -> None:
    """No one is passed over for longer than its patience and the queue of those whose patience ended before."""
    waiting = [Waiting(i, *person) for i, person in enumerate(people)]
    rounds = ceil(sum(one.lanes for one in waiting) / max_lanes)
    queue = sum(ceil(one.lanes / max_lanes) + 1 for one in waiting)
    clock = 0.0
    while waiting:
        turns = [
            Turn(
                one,
                one.lanes - one.answered,
                (4, 8, 8),
                one.done == 0,
                one.passed_over,
                one.remaining,
                None if one.deadline_s is None else one.deadline_s - clock,
            )
            for one in waiting
        ]
        chosen = choose(turns, max_lanes, 0.1)
        assert chosen
        missing = sum(one.lanes - one.answered for one in waiting)
        assert sum(lanes for _, lanes in chosen) == min(max_lanes, missing)
        for one in waiting:
            one.passed_over += 1
            assert one.passed_over <= PATIENCE * rounds + queue
        for one, lanes in chosen:
            one.answered += lanes
            if one.answered == one.lanes:
                one.answered, one.passed_over, one.done, one.remaining = 0, 0, one.done + 1, one.remaining - 1
        waiting = [one for one in waiting if one.remaining > 0]
        clock += 0.1


def test_large_ones_have_less_room() -> None:
    """Of the kind that is first: a batch of the others isn't smaller for it."""
    turns = [turn("a", kind="large", passed_over=2), turn("b", kind="large"), turn("c", kind="small")]

    def room_for(who: str) -> int:
        return 1 if who in "ab" else 8

    assert choose(turns, 8, 0.1, room_for) == [("a", 1)]
    assert choose(turns[1:], 8, 0.1, room_for) == [("b", 1)]
    assert choose(turns[2:], 8, 0.1, room_for) == [("c", 2)]

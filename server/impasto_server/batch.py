"""The choice of who is in the next batch when not everyone fits."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Generic, TypeVar

T = TypeVar("T")

PATIENCE = 4


@dataclass(frozen=True)
class Turn(Generic[T]):
    """One who waits for a step.

    `lanes` counts the rows of its `kind` (a stage and a shape) that its step still needs. `new`: it has had no step
    yet. `passed_over` counts batches since it came or had its last step, `remaining` its steps to come. `time_left_s`
    is the time until its deadline, None without one.
    """

    who: T
    lanes: int
    kind: Hashable
    new: bool
    passed_over: int
    remaining: int
    time_left_s: float | None


def choose(
    turns: Sequence[Turn[T]], max_lanes: int, step_s: float, room_for: Callable[[T], int] | None = None
) -> list[tuple[T, int]]:
    """Who gets how many rows of the next batch, highest priority first. All rows are of one kind.

    A batch has `max_lanes` rows, or as many as `room_for` says for the first one's kind. No row stays empty while
    someone waits for it: the last one may get some of its lanes now and the rest in the next batch. That costs it
    nothing, since otherwise it would get all of them then.

    First come those passed over for `PATIENCE` rounds, so no one starves. Then those who can still make their deadline
    but would miss it by taking turns, least slack first. Then the new, so that a request joins within one step. Then
    whoever has waited longest: a short request among long ones gets a step as often as they do and is done long before
    them. `step_s` is what a step takes.
    """
    rounds = ceil(sum(turn.lanes for turn in turns) / max_lanes)
    ordered = sorted(turns, key=lambda turn: _rank(turn, rounds, step_s))
    chosen: list[tuple[T, int]] = []
    room = max_lanes if room_for is None or not ordered else room_for(ordered[0].who)
    for turn in ordered:
        if room and turn.kind == ordered[0].kind:
            chosen.append((turn.who, min(turn.lanes, room)))
            room -= chosen[-1][1]
    return chosen


def _rank(turn: Turn[T], rounds: int, step_s: float) -> tuple[int, float]:
    if turn.passed_over >= PATIENCE * rounds:
        return 0, -turn.passed_over
    if turn.time_left_s is not None:
        alone = turn.remaining * step_s
        if alone <= turn.time_left_s < rounds * alone:
            return 1, turn.time_left_s - alone
    return (2 if turn.new else 3), -turn.passed_over

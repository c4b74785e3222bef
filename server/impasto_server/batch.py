"""Who is in the next batch, when not everyone fits."""

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

    `lanes` rows of a `kind` (a stage and a shape) are missing to its step; `new`: it has had no step yet; `passed_over`
    batches since it came or had its last step; `remaining` steps; `time_left_s` until its deadline, None without one.
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
    """Who gets how many of `max_lanes` rows of one kind, most deserving first; or of as many as there is `room_for` in
    a batch of one's kind.

    No row is left empty while someone waits for it: the last one may get some of its lanes now and the rest with the
    next batch, which costs it nothing, since otherwise it would get all of them then.

    First come those who were passed over for `PATIENCE` rounds, so no one starves. Then those who would miss their
    deadline if they had to take turns, and can still make it, least slack first. Then the new, so that a request joins
    within one step. Then whoever has waited longest: a short request among long ones gets a step as often as they do,
    and is done long before them. `step_s` is what a step takes.
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

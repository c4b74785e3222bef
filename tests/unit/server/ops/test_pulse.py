"""When a server that lives is taken for one that hangs, or that was told to stop."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import grpc  # type: ignore[import-untyped]
import pytest

from impasto_server.ops.pulse import ENOUGH, PERIOD_S, Pulse
from impasto_server.stats import Reason

OK, LATE, LOST = grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE


@dataclass
class Answer:
    """A future that is done once it has a code."""

    status: grpc.StatusCode | None = None
    ready: bool = True

    def done(self) -> bool:
        return self.status is not None

    def code(self) -> grpc.StatusCode:
        return self.status

    def result(self) -> SimpleNamespace:
        return SimpleNamespace(ready=self.ready)


class Asked:
    """A pulse, its questions and its clock."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.now = 0.0
        self.pulse = Pulse(self._ask, lambda: self.now)

    def _ask(self) -> Answer:
        self.answers.append(Answer())
        return self.answers[-1]

    def hear(self, status: grpc.StatusCode, ready: bool = True) -> Reason | None:
        """Answer the last question, and look when the next is due."""
        self.answers[-1].status, self.answers[-1].ready = status, ready
        self.now += PERIOD_S
        return self.pulse.look()


def test_a_server_that_answers_is_well_and_asked_twice_a_second() -> None:
    asked = Asked()
    for _ in range(10):
        assert asked.hear(OK) is None
    assert len(asked.answers) == 11
    asked.answers[-1].status = OK
    assert asked.pulse.look() is None
    assert len(asked.answers) == 11  # the next isn't due


def test_nobody_waits_for_an_answer() -> None:
    asked = Asked()
    asked.now += 100 * PERIOD_S
    assert asked.pulse.look() is None
    assert len(asked.answers) == 1


@pytest.mark.parametrize(
    ("status", "ready", "reason"), [(LATE, True, "hang"), (LOST, True, "told_to_stop"), (OK, False, "told_to_stop")]
)
def test_enough_bad_answers_in_a_row_mean_an_end(status: grpc.StatusCode, ready: bool, reason: Reason) -> None:
    asked = Asked()
    told = [asked.hear(status, ready) for _ in range(ENOUGH[reason])]
    assert told == [None] * (ENOUGH[reason] - 1) + [reason]


def test_one_good_answer_between_bad_ones_is_a_sign_of_life() -> None:
    asked = Asked()
    for status in [LATE, LATE, OK, LATE, LATE, OK, LOST, LOST, LOST, LATE, LOST, LOST, LOST]:
        assert asked.hear(status) is None

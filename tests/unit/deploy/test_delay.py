"""How long requests waited lately, as their answers say it."""

from __future__ import annotations

import pytest

from impasto_client.simulation import answer
from impasto_client.wire import Tensors, account, encode
from impasto_deploy.ray.delay import Delay


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_mean_of_what_was_answered_within_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = iter([1000.0, 3000.0])

    def waited(tensors: Tensors) -> object:
        meta, timings, warnings = account(tensors)
        return meta, type(timings)(next(waits), 0, 0, 0, 0), warnings

    monkeypatch.setattr("impasto_deploy.ray.delay.account", waited)
    clock, picture = Clock(), answer(encode("a boat"), ())
    delay = Delay(window_s=10, now=clock)
    assert delay.mean_s() == 0
    delay.answered(picture)
    clock.now = 6
    delay.answered(picture)
    assert delay.mean_s() == 2
    clock.now = 11
    assert delay.mean_s() == 3
    clock.now = 20
    assert delay.mean_s() == 0


def test_progress_and_strange_answers_are_not_counted() -> None:
    delay = Delay()
    delay.answered({})
    delay.answered({**answer(encode("a boat"), ()), "META": encode("no JSON")["PROMPT"]})
    assert delay.mean_s() == 0

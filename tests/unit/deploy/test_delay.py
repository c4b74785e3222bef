"""How much requests were delayed lately by others."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from impasto_deploy.ray.delay import Delay


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_request_alone_is_not_delayed() -> None:
    clock = Clock()
    delay = Delay(now=clock)
    assert delay.mean_s() == 0
    with delay.counted():
        clock.now = 8
    assert delay.mean_s() == 0


def test_those_that_share_the_server_delay_one_another() -> None:
    clock = Clock()
    delay = Delay(now=clock)
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(delay.counted())
        clock.now = 8
    assert delay.mean_s() == 6


def test_only_while_they_do() -> None:
    clock = Clock()
    delay = Delay(now=clock)
    with delay.counted():
        clock.now = 4
        with delay.counted():
            clock.now = 6
        assert delay.mean_s() == 1
        clock.now = 9
    assert delay.mean_s() == 1  # each had a half of two seconds


def test_what_ended_before_the_window_is_forgotten() -> None:
    clock = Clock()
    delay = Delay(window_s=10, now=clock)
    with delay.counted(), delay.counted():
        clock.now = 2
    assert delay.mean_s() == 1
    clock.now = 12
    assert delay.mean_s() == 0


def test_a_request_that_fails_no_longer_delays_others() -> None:
    clock = Clock()
    delay = Delay(now=clock)
    with pytest.raises(KeyError), delay.counted():
        raise KeyError
    with delay.counted():
        clock.now = 8
    assert delay.mean_s() == 0

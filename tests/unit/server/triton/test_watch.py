from __future__ import annotations

from itertools import count
from threading import Event

import pytest

from impasto_server.triton.watch import PERIOD_S, SHARE, Watch


def test_then_is_called_once_when_someone_is_gone() -> None:
    watch, leave, left = Watch(), Event(), Event()
    calls: list[str] = []

    def then() -> None:
        calls.append("left")
        left.set()

    watch.over(leave.is_set, then)
    assert not left.wait(0.05)
    leave.set()
    assert left.wait(5)
    watch.close()
    assert calls == ["left"]


def test_nobody_is_asked_after_the_end() -> None:
    watch, asked = Watch(), Event()
    questions: list[None] = []

    def gone() -> bool:
        questions.append(None)
        asked.set()
        return False

    forget = watch.over(gone, pytest.fail)
    assert asked.wait(5)
    forget()
    forget()
    soon = Event()
    watch.over(lambda: True, soon.set)
    assert soon.wait(5)
    count = len(questions)
    watch.over(lambda: True, soon.set)
    watch.close()
    assert len(questions) == count


def test_one_who_cannot_be_asked_is_gone_and_the_others_are_still_watched() -> None:
    watch, broken, other = Watch(), Event(), Event()

    def gone() -> bool:
        raise RuntimeError("the connection is gone")

    watch.over(gone, broken.set)
    watch.over(broken.is_set, other.set)
    assert broken.wait(5)
    assert other.wait(5)
    watch.close()


def test_once_told_to_stop_it_is_not_in_the_middle_of_asking() -> None:
    watch, asking, answered = Watch(), Event(), Event()

    def gone() -> bool:
        asking.set()
        answered.wait(0.05)
        answered.set()
        return False

    forget = watch.over(gone, pytest.fail)
    assert asking.wait(5)
    forget()
    assert answered.is_set()
    watch.close()


def test_many_callers_are_asked_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round that takes a second is followed by a pause in which others may compute."""
    pauses: list[float] = []

    class Closing(Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0)
            return len(pauses) > 2

    seconds = count()
    monkeypatch.setattr("impasto_server.triton.watch.thread_time", lambda: float(next(seconds)))
    monkeypatch.setattr("impasto_server.triton.watch.Event", Closing)
    Watch().close()
    assert pauses == [PERIOD_S, 1 / SHARE, 1 / SHARE]

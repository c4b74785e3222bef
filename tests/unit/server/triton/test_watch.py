from __future__ import annotations

from itertools import count
from threading import Event

import pytest

from impasto_server.triton.watch import Watch


def test_then_is_called_once_when_someone_is_gone() -> None:
    watch, leave, left = Watch(), Event(), Event()
    calls: list[str] = []

    def then() -> None:
        calls.append("left")
        left.set()

    watch.over(leave.is_set, then)
    assert not left.wait(0.05)
    leave.set()
    assert left.wait(60)
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
    assert asked.wait(60)
    forget()
    forget()
    soon = Event()
    watch.over(lambda: True, soon.set)
    assert soon.wait(60)
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
    assert broken.wait(60)
    assert other.wait(60)
    watch.close()


def test_once_told_to_stop_it_is_not_in_the_middle_of_asking() -> None:
    watch, asking, answered = Watch(), Event(), Event()

    def gone() -> bool:
        asking.set()
        answered.wait(0.05)
        answered.set()
        return False

    forget = watch.over(gone, pytest.fail)
    assert asking.wait(60)
    forget()
    assert answered.is_set()
    watch.close()


def test_rounds_that_take_long_are_followed_by_long_pauses() -> None:
    """Whom it took an hour to ask isn't asked again while those of another watch are asked many times."""
    hours = (3600.0 * hour for hour in count())
    slow, quick = Watch(hours.__next__), Watch()
    rarely: list[None] = []
    asked, often = Event(), Event()

    def gone() -> bool:
        rarely.append(None)
        asked.set()
        return False

    slow.over(gone, pytest.fail)
    assert asked.wait(60)
    turns = count()
    quick.over(lambda: next(turns) == 100, often.set)
    assert often.wait(60)
    slow.close()
    quick.close()
    assert len(rarely) == 1

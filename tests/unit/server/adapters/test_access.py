"""Files that hang: `hang` is a read of one, which lasts until `go` is set."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import count
from threading import Event, active_count

import pytest

from impasto_server.adapters.access import MAX_HANGING, MAX_THREADS, THREADS, Access, Attempt

PATIENCE_S = 60.0
FOR_EVER_S = 1e6
SHORT_S = 2.0
STALL_S = 0.05
NUMBERS = count()


@pytest.fixture
def go() -> Iterator[Event]:
    event = Event()
    yield event
    event.set()


def opened(limit_s: float) -> Access:
    return Access("test", limit_s, STALL_S)


def hang(access: Access, go: Event, key: str | None = None) -> tuple[Future[str], Event]:
    """A read that hangs, and whether it has begun; of a file of its own unless `key` names one."""
    begun = Event()

    def read(attempt: Attempt) -> str:
        begun.set()
        go.wait(PATIENCE_S)
        return "late"

    return access.start(key or f"file {next(NUMBERS)}", read, TimeoutError), begun


def answers(access: Access, key: str = "good") -> bool:
    return access.start(key, lambda attempt: "read", TimeoutError).result(PATIENCE_S) == "read"


def test_what_was_read_and_what_went_wrong_is_told() -> None:
    access = opened(FOR_EVER_S)
    assert answers(access)
    with pytest.raises(ZeroDivisionError):
        access.start("bad", lambda attempt: 1 // 0, TimeoutError).result(PATIENCE_S)
    assert answers(access)
    access.close()


def test_a_read_that_hangs_is_given_up_and_what_it_comes_to_later_is_dropped(go: Event) -> None:
    access = opened(SHORT_S)
    hung, _ = hang(access, go)
    with pytest.raises(TimeoutError, match=r"^the registry did not answer within 2 s$"):
        hung.result(PATIENCE_S)
    go.set()
    assert answers(access)
    assert isinstance(hung.exception(), TimeoutError)


def test_others_are_read_beside_those_that_hang_before_these_are_given_up(go: Event) -> None:
    access = opened(FOR_EVER_S)
    hung = [hang(access, go) for _ in range(MAX_THREADS - 1)]
    assert all(begun.wait(PATIENCE_S) for _, begun in hung)
    assert answers(access)
    assert not any(one.done() for one, _ in hung)


def test_when_every_thread_hangs_no_one_is_let_wait(go: Event) -> None:
    access = opened(FOR_EVER_S)
    before = active_count()
    hung = [hang(access, go) for _ in range(MAX_THREADS)]
    assert all(begun.wait(PATIENCE_S) for _, begun in hung)
    for _ in range(3):
        refused, begun = hang(access, go)
        with pytest.raises(TimeoutError, match=f"the registry does not answer .{MAX_THREADS} reads hang"):
            refused.result(PATIENCE_S)
        assert not begun.is_set()
    assert active_count() <= before + MAX_THREADS
    go.set()
    assert all(one.result(PATIENCE_S) == "late" for one, _ in hung)
    assert answers(access)


def test_of_one_file_one_read_is_under_way_and_who_asks_meanwhile_has_the_next_together(go: Event) -> None:
    """What they get is no older than their question: the name may have been pointed elsewhere meanwhile."""
    access = opened(FOR_EVER_S)
    first, begun = hang(access, go, "name")
    assert begun.wait(PATIENCE_S)
    second, also_begun = hang(access, go, "name")
    third, _ = hang(access, go, "name")
    assert second is third is not first
    assert answers(access)
    assert not also_begun.is_set()
    go.set()
    assert second.result(PATIENCE_S) == "late"
    assert also_begun.is_set()


def test_all_who_wait_for_a_file_that_hangs_are_told_together_and_later_ones_try_anew(go: Event) -> None:
    access = opened(SHORT_S)
    for _ in range(MAX_HANGING):
        first, begun = hang(access, go, "name")
        assert begun.wait(PATIENCE_S)
        second, never = hang(access, go, "name")
        for one in (first, second):
            with pytest.raises(TimeoutError, match=r"^the registry did not answer within 2 s$"):
                one.result(PATIENCE_S)
        assert not never.is_set()
    refused, begun = hang(access, go, "name")
    with pytest.raises(TimeoutError, match=r"^the registry does not answer .3 reads hang.$"):
        refused.result(PATIENCE_S)
    assert not begun.is_set()
    assert answers(access)
    go.set()
    while not answered(access, "name"):
        pass


def answered(access: Access, key: str) -> bool:
    try:
        return answers(access, key)
    except TimeoutError:
        return False


def test_threads_beyond_the_usual_leave_once_their_files_let_go_of_them(go: Event) -> None:
    access = opened(FOR_EVER_S)
    for _, begun in [hang(access, go) for _ in range(MAX_THREADS)]:
        assert begun.wait(PATIENCE_S)
    go.set()
    while len(access._threads) > THREADS:
        assert answers(access)
    assert answers(access)


def test_who_gets_something_now_and_then_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large file of a slow disk: each of ten parts takes almost as long as is allowed."""
    seconds = 0.0
    monkeypatch.setattr("impasto_server.adapters.access.monotonic", lambda: seconds)
    access = opened(10.0)

    def read(attempt: Attempt) -> str:
        nonlocal seconds
        for _ in range(10):
            seconds += 9
            assert not access._hopeless()
            attempt.moved()
        attempt.read()
        seconds += 1000  # it's worked on
        assert not access._hopeless()
        return "read"

    assert access.start("slow", read, TimeoutError).result(PATIENCE_S) == "read"


def test_nothing_is_held_of_a_read_that_failed() -> None:
    """It may have been of gigabytes."""

    class Large:
        pass

    def fail(attempt: Attempt) -> str:
        large = Large()
        held.append(weakref.ref(large))
        raise ZeroDivisionError

    access, held = opened(FOR_EVER_S), list[weakref.ref[Large]]()
    gc.disable()
    try:
        failed = access.start("bad", fail, TimeoutError)
        assert isinstance(failed.exception(PATIENCE_S), ZeroDivisionError)
        assert answers(access)
        del failed
        while len(access._running):
            pass
        assert held[0]() is None
    finally:
        gc.enable()


def test_closing_waits_for_nobody_who_hangs(go: Event) -> None:
    access = opened(FOR_EVER_S)
    _, begun = hang(access, go)
    assert begun.wait(PATIENCE_S)
    access.close()
    assert not go.is_set()

"""Threads that touch the registry's files, which may never answer: a hung one is left behind with its thread.

A thread that gets nothing for a moment has another beside it, up to a bound. An access that gets nothing for `limit_s`
is given up; its thread is back when the file lets go of it, if ever. Of one file one access is under way at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Event, Thread, current_thread
from time import monotonic
from typing import Any, TypeVar

T = TypeVar("T")

THREADS = 2
MAX_THREADS = THREADS + 8  # all of which may hang; those who need files are then refused at once
MAX_HANGING = 3  # of them with one and the same file
LIMIT_S = 10.0
STALL_S = 1.0


class Attempt:
    """How an access gets on, as the one who makes it tells: when its file last gave something."""

    def __init__(self) -> None:
        self._since = monotonic()

    def moved(self) -> None:
        """Say that the file gave something."""
        self._since = monotonic()

    def read(self) -> None:
        """Say that all was read: what is still to be done with it may take its time."""
        self._since = math.inf

    @property
    def waited_s(self) -> float:
        return monotonic() - self._since


@dataclass(eq=False)
class _Task:
    """An access to the file `key`: what is done, and what error `unanswered` makes of why it was given up."""

    key: str
    work: Callable[[Attempt], Any]
    unanswered: Callable[[str], Exception]
    told: Future[Any] = field(default_factory=Future)
    attempt: Attempt = field(default_factory=Attempt)
    over: bool = False


class Access:
    """Does what touches files, in the order in which it is asked to, on a few threads."""

    def __init__(self, name: str, limit_s: float = LIMIT_S, stall_s: float = STALL_S) -> None:
        self._name = name
        self._limit_s = limit_s
        self._stall_s = stall_s
        self._waiting: dict[str, _Task] = {}  # by file, the first to be done first
        self._running: set[_Task] = set()
        self._threads: list[Thread] = []
        self._changed = Condition()
        self._closing = Event()
        Thread(target=self._mind, name=f"{name}-minder", daemon=True).start()

    def start(self, key: str, work: Callable[[Attempt], T], unanswered: Callable[[str], Exception]) -> Future[T]:
        """Do `work`, which tells its Attempt whenever it gets something from the file `key`; what came of it.

        Those who ask while their file's turn is yet to come have it together: what they get is no older than their
        question. The Future fails with what `unanswered` makes of a reason when the file doesn't answer. Whatever waits
        for it is called from a thread of this.
        """
        with self._changed:
            task = self._waiting.get(key)
            if task is None:
                task = _Task(key, work, unanswered)
                self._waiting[key] = task
                self._staff()
                self._changed.notify_all()
        return task.told

    def close(self) -> None:
        """Start nothing more; threads that hang are left to hang."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
            threads = list(self._threads)
        deadline = monotonic() + self._stall_s
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))

    @property
    def _stalled(self) -> int:
        return sum(task.attempt.waited_s > self._stall_s for task in self._running)

    def _staff(self) -> None:
        """See to it that there are as many threads as are of use."""
        useful = min(MAX_THREADS, self._stalled + THREADS, len(self._running) + len(self._waiting))
        while len(self._threads) < useful:
            thread = Thread(target=self._serve, name=self._name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _hopeless(self) -> list[tuple[_Task, str]]:
        """Those who are given up now, and why."""
        late = [one for one in self._running if not one.over and one.attempt.waited_s > self._limit_s]
        late += [self._waiting[key] for key in {one.key for one in late} if key in self._waiting]
        stalled = self._stalled
        stuck = [
            one for one in self._waiting.values() if stalled >= MAX_THREADS or self._hanging(one.key) >= MAX_HANGING
        ]
        found = dict.fromkeys(stuck, f"the registry does not answer, {stalled} reads of it hang")
        found |= dict.fromkeys(late, f"the registry did not answer within {self._limit_s:g} s")
        self._waiting = {key: one for key, one in self._waiting.items() if one not in found}
        for task in found:
            task.over = True
        return list(found.items())

    def _hanging(self, key: str) -> int:
        return sum(one.over for one in self._running if one.key == key)

    def _first(self) -> _Task | None:
        """The first whose turn it is."""
        busy = {one.key for one in self._running if not one.over}
        ready = (one for one in self._waiting.values() if one.key not in busy and self._hanging(one.key) < MAX_HANGING)
        return next(ready, None)

    def _serve(self) -> None:
        while self._serve_one():  # a function of its own, so that nothing of it is held while there is nothing to do
            pass

    def _serve_one(self) -> bool:
        """Wait for a task and do it; False when this thread is of no more use."""
        task = self._next()
        if task is None:
            return False
        try:
            outcome = task.work(task.attempt)
        except Exception as error:
            if self._end(task):
                task.told.set_exception(error)
        else:
            if self._end(task):
                task.told.set_result(outcome)
        task = None  # else a failure would hold this frame, and the frame the failure, with all that was read
        return True

    def _next(self) -> _Task | None:
        with self._changed:
            self._changed.wait_for(lambda: self._first() or self._closing.is_set())
            if self._closing.is_set() or len(self._threads) - len(self._running) > THREADS:
                self._threads.remove(current_thread())
                return None
            task = self._first()
            assert task is not None
            del self._waiting[task.key]
            task.attempt.moved()
            self._running.add(task)
            return task

    def _end(self, task: _Task) -> bool:
        """False for one that was given up: what it came to is dropped."""
        with self._changed:
            self._running.remove(task)
            given_up, task.over = task.over, True
        return not given_up

    def _mind(self) -> None:
        """Look after those that are under way; nothing to do while there are none."""
        while not self._closing.wait(self._stall_s / 4):
            with self._changed:
                self._changed.wait_for(lambda: self._running or self._waiting or self._closing.is_set())
            self._give_up()

    def _give_up(self) -> None:
        with self._changed:
            hopeless = self._hopeless()
            self._staff()
            self._changed.notify_all()
        for task, why in hopeless:
            task.told.set_exception(task.unanswered(why))

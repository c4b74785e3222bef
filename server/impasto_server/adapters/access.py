"""Threads that read the registry's files. A file may never answer; then its access is given up and its thread left.

When a thread gets nothing for a moment, another is started, up to a bound. An access that gets nothing for `limit_s` is
given up; its thread returns when the file answers, if ever. Each file has at most one access under way that isn't given
up.
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
MAX_THREADS = THREADS + 8  # when all of them hang, new accesses fail at once
MAX_HANGING = 3  # threads that may hang with the same file
LIMIT_S = 10.0
STALL_S = 1.0


class Attempt:
    """The progress of an access: when its file last gave something. The access itself reports it."""

    def __init__(self) -> None:
        self._since = monotonic()

    def moved(self) -> None:
        """Report that the file gave something."""
        self._since = monotonic()

    def read(self) -> None:
        """Report that all is read: the work that is left has no time limit."""
        self._since = math.inf

    @property
    def waited_s(self) -> float:
        return monotonic() - self._since


@dataclass(eq=False)
class _Task:
    """An access to the file `key`. `unanswered` turns the reason for giving it up into an error."""

    key: str
    work: Callable[[Attempt], Any]
    unanswered: Callable[[str], Exception]
    told: Future[Any] = field(default_factory=Future)
    attempt: Attempt = field(default_factory=Attempt)
    over: bool = False


class Access:
    """Accesses files on a few threads, in the order in which it is asked."""

    def __init__(self, name: str, limit_s: float = LIMIT_S, stall_s: float = STALL_S) -> None:
        self._name = name
        self._limit_s = limit_s
        self._stall_s = stall_s
        self._waiting: dict[str, _Task] = {}  # by file, in the order in which they are done
        self._running: set[_Task] = set()
        self._threads: list[Thread] = []
        self._changed = Condition()
        self._closing = Event()
        Thread(target=self._mind, name=f"{name}-minder", daemon=True).start()

    def start(self, key: str, work: Callable[[Attempt], T], unanswered: Callable[[str], Exception]) -> Future[T]:
        """Do `work` on the file `key`; it tells its Attempt whenever the file gives something. Returns its outcome.

        Calls for a file that is still waiting share one access, so what they get is never older than their question.
        If the file doesn't answer, the Future fails with the error that `unanswered` makes of the reason. Its callbacks
        run on threads of this object.
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
        """Start nothing more; threads that hang are left behind."""
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
        """Start threads until there are as many as are of use."""
        useful = min(MAX_THREADS, self._stalled + THREADS, len(self._running) + len(self._waiting))
        while len(self._threads) < useful:
            thread = Thread(target=self._serve, name=self._name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _hopeless(self) -> list[tuple[_Task, str]]:
        """The tasks that are given up now, each with the reason."""
        late = [one for one in self._running if not one.over and one.attempt.waited_s > self._limit_s]
        late += [self._waiting[key] for key in {one.key for one in late} if key in self._waiting]
        stalled = self._stalled
        stuck = [
            one for one in self._waiting.values() if stalled >= MAX_THREADS or self._hanging(one.key) >= MAX_HANGING
        ]
        found = dict.fromkeys(stuck, f"the registry does not answer ({stalled} reads hang)")
        found |= dict.fromkeys(late, f"the registry did not answer within {self._limit_s:g} s")
        self._waiting = {key: one for key, one in self._waiting.items() if one not in found}
        for task in found:
            task.over = True
        return list(found.items())

    def _hanging(self, key: str) -> int:
        return sum(one.over for one in self._running if one.key == key)

    def _first(self) -> _Task | None:
        """The first task that may start."""
        busy = {one.key for one in self._running if not one.over}
        ready = (one for one in self._waiting.values() if one.key not in busy and self._hanging(one.key) < MAX_HANGING)
        return next(ready, None)

    def _serve(self) -> None:
        while self._serve_one():  # a function of its own, so that its locals hold nothing while this thread is idle
            pass

    def _serve_one(self) -> bool:
        """Wait for a task and do it; False when this thread is no longer needed."""
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
        task = None  # else a stored error would hold this frame, and the frame the error, with all that was read
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
        """End a task. False if it was given up before: its outcome is dropped."""
        with self._changed:
            self._running.remove(task)
            given_up, task.over = task.over, True
        return not given_up

    def _mind(self) -> None:
        """Watch the tasks under way and give up those that hang; sleep while there are none."""
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

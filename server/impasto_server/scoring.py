"""Comparisons on their way: pictures of unrelated requests share the scorer's passes, and none waits for a longer one.

A request has one picture read at each turn, so that 64 large ones hold up a small one by no more than their first; and
before each it's asked whether anybody still waits.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter

import numpy as np

from impasto_server.admission import Admission
from impasto_server.comparison import Comparison
from impasto_server.content import read_whole
from impasto_server.drain import Closing
from impasto_server.errors import Cancelled, DeadlineExceeded, ImpastoError, as_impasto_error
from impasto_server.score import BATCH, Array, Pixels, Scorer
from impasto_server.stats import Stats

log = logging.getLogger(__name__)

MOST_PIXELS = 16 << 20  # read for one pass, but for the picture that exceeds it: nobody waits for many large ones

Done = Callable[[Array | ImpastoError], None]


@dataclass(eq=False)
class Task:
    """A comparison and who waits for it; how many of its files were read, and the embeddings that some have by now."""

    comparison: Comparison
    done: Done
    gone: Callable[[], bool]
    closing: Closing
    submitted: float
    read: int = 0
    embeds: list[Array] = field(default_factory=list)
    over: bool = False

    def check(self) -> None:
        """Raises Cancelled when nobody waits for the scores, DeadlineExceeded when they would come too late.

        And Unavailable, when the server's own time is over.
        """
        self.closing.check()
        if self.gone():
            raise Cancelled("the caller cancelled the request, or is gone")
        limit_s = self.comparison.timeout_s
        if limit_s is not None and perf_counter() - self.submitted >= limit_s:
            read = f"{self.read} of {len(self.comparison.files)} pictures were read"
            raise DeadlineExceeded(f"no scores within {limit_s:g} s ({read}); allow more time, or pass fewer pictures")

    def next(self) -> Pixels:
        """The next file's. Raises InvalidArgument."""
        name, data = self.comparison.files[self.read]
        self.read += 1
        return read_whole(data, name)


class Scoring:
    """One scorer, comparing for everyone. `submit` from any thread."""

    def __init__(self, scorer: Scorer, max_requests: int) -> None:
        self._scorer = scorer
        self._admission = Admission(max_requests, Stats())
        self._closing = Closing()
        self._joining: SimpleQueue[Task | None] = SimpleQueue()
        self._loop = Thread(target=self._run, name="scoring", daemon=True)
        self._loop.start()

    def submit(self, comparison: Comparison, done: Done, gone: Callable[[], bool] = lambda: False) -> None:
        """Start on it and return. `done` is told scores [n] or an error, once; `gone` is asked before, by that thread.

        Raises Unavailable when closed, and Exhausted when `max_requests` are under way.
        """
        self._admission.enter()
        self._joining.put(Task(comparison, done, gone, self._closing, perf_counter()))

    def drain(self, grace_s: float) -> int:
        """Take nothing new, and finish what was taken; how many were told Unavailable since they took longer."""
        self._closing.within(grace_s)
        return self._admission.drain(grace_s)

    def close(self) -> None:
        """Take nothing new, finish what was taken, and free the thread."""
        self._admission.close()
        self._joining.put(None)
        self._loop.join()

    def _run(self) -> None:
        waiting: deque[Task] = deque()
        while self._admit(waiting):
            if batch := self._read(waiting):
                self._pass(batch)
            waiting = deque(task for task in waiting if not task.over)

    def _admit(self, waiting: deque[Task]) -> bool:
        """Let everyone in who has come, waiting only while there is nothing to do. False when closed."""
        try:
            while True:
                task = self._joining.get(block=not waiting)
                if task is None:
                    return False
                waiting.append(task)
        except Empty:
            return True

    def _read(self, waiting: deque[Task]) -> list[tuple[Task, Array]]:
        """Pictures for a pass, of each task in turn, and whose they are; a task of which one can't be read is over."""
        batch: list[tuple[Task, Array]] = []
        pixels = 0
        while waiting and len(batch) < BATCH and pixels < MOST_PIXELS:
            task = waiting.popleft()
            try:
                task.check()
                picture = task.next()
                batch.append((task, self._scorer.fitted(picture)))
            except Exception as error:
                self._settle(task, as_impasto_error(error))
                continue
            pixels += picture.size // 3
            if task.read < len(task.comparison.files):
                waiting.append(task)
        return [(task, row) for task, row in batch if not task.over]

    def _pass(self, batch: list[tuple[Task, Array]]) -> None:
        """Embed, and compare for those who have all of theirs embedded then."""
        tasks = dict.fromkeys(task for task, _ in batch)
        try:
            embeds = self._scorer.embeds(row for _, row in batch)
        except Exception as error:
            for task in tasks:
                self._settle(task, as_impasto_error(error))
            return
        for (task, _), embed in zip(batch, embeds, strict=True):
            task.embeds.append(embed)
        for task in tasks:
            if len(task.embeds) == len(task.comparison.files):
                self._compare(task)

    def _compare(self, task: Task) -> None:
        try:
            outcome: Array | ImpastoError = task.comparison.scores(np.stack(task.embeds), self._scorer)
        except Exception as error:
            outcome = as_impasto_error(error)
        self._settle(task, outcome)

    def _settle(self, task: Task, outcome: Array | ImpastoError) -> None:
        task.over = True
        self._admission.leave()
        try:
            task.done(outcome)
        except Exception as error:  # theirs, and no reason to stop serving the others
            log.error("a caller could not take its scores", exc_info=error)

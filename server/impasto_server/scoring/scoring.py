"""The scoring loop: pictures of unrelated requests share the scorer's passes, and short requests pass long ones.

At each turn one picture of a request is read (turns.py), so small requests don't wait for large ones; before that the
request is checked. Only the scorer's input is kept of a picture, so at most one decoded picture is in memory; its file
is dropped.
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
from impasto_server.closing import Closing
from impasto_server.errors import Cancelled, DeadlineExceeded, ImpastoError, as_impasto_error
from impasto_server.pictures.content import pixels_in, read_whole
from impasto_server.scoring.comparison import Comparison
from impasto_server.scoring.score import BATCH, Array, Pixels, Scorer
from impasto_server.stats import Stats
from impasto_server.turns import Order

log = logging.getLogger(__name__)

MOST_PIXELS = 16 << 20  # to read for one pass; the last picture may exceed it. So nobody waits for many large ones

Done = Callable[[Array | ImpastoError], None]


@dataclass(frozen=True)
class File:
    """A picture file: its name in errors, its bytes, and its pixels by its header."""

    name: str
    data: bytes
    pixels: int


@dataclass(eq=False)
class Task:
    """A comparison under way: the `files` still to be read, the embeddings of those that were, and who waits for it."""

    comparison: Comparison
    files: deque[File]
    done: Done
    gone: Callable[[], bool]
    closing: Closing
    submitted: float
    embeds: list[Array] = field(default_factory=list)
    over: bool = False

    @classmethod
    def of(cls, comparison: Comparison, done: Done, gone: Callable[[], bool], closing: Closing) -> Task:
        """A task for `comparison`. From now on only `files` holds the files, each until it is read."""
        files = deque(File(name, data, pixels_in(data)) for name, data in comparison.files)
        return cls(comparison.without_files(), files, done, gone, closing, perf_counter())

    @property
    def count(self) -> int:
        """How many files there are in all."""
        return len(self.comparison.files)

    @property
    def left(self) -> int:
        """Pixels of the files still to be read."""
        return sum(file.pixels for file in self.files)

    def check(self) -> None:
        """Raise Cancelled when nobody waits for the scores, DeadlineExceeded when the caller's time has passed, and
        Unavailable when the server is closing.
        """
        self.closing.check()
        if self.gone():
            raise Cancelled("the caller cancelled the request, or is gone")
        limit_s = self.comparison.timeout_s
        if limit_s is not None and perf_counter() - self.submitted >= limit_s:
            read = f"{self.count - len(self.files)} of {self.count} pictures were read"
            raise DeadlineExceeded(f"no scores within {limit_s:g} s ({read}); allow more time, or pass fewer pictures")

    def next(self) -> Pixels:
        """The pixels of the next file. Raises InvalidArgument."""
        file = self.files.popleft()
        return read_whole(file.data, file.name)


class Scoring:
    """One scorer for all callers. `submit` from any thread."""

    def __init__(self, scorer: Scorer, max_requests: int) -> None:
        self._scorer = scorer
        self._stats = Stats()  # nobody reads them
        self._admission = Admission(max_requests)
        self._closing = Closing()
        self._joining: SimpleQueue[Task | None] = SimpleQueue()
        self._waiting: Order[Task] = Order()
        self._loop = Thread(target=self._run, name="scoring", daemon=True)
        self._loop.start()

    def submit(self, comparison: Comparison, done: Done, gone: Callable[[], bool] = lambda: False) -> None:
        """Start on `comparison` and return. `done` is called once, with scores [n] or an error; before that `gone` is
        asked. Both run on this object's thread.

        Raises Unavailable when closed, and Exhausted when `max_requests` are under way.
        """
        self._admission.enter(self._stats)
        self._joining.put(Task.of(comparison, done, gone, self._closing))

    def drain(self, grace_s: float) -> int:
        """Refuse new requests and finish those under way. Those that take longer than `grace_s` are told Unavailable;
        returns how many.
        """
        late = self._admission.drain(grace_s)
        self._closing.now()
        self._admission.close()
        return late

    def close(self) -> None:
        """Refuse new requests, finish those under way, and end the thread."""
        self._admission.close()
        self._joining.put(None)
        self._loop.join()

    def _run(self) -> None:
        while self._admit():
            self._dismiss()
            if batch := self._read():
                self._pass(batch)

    def _admit(self) -> bool:
        """Admit all tasks that have come; wait only while there is nothing to do. False when closed."""
        try:
            while True:
                task = self._joining.get(block=not self._waiting)
                if task is None:
                    return False
                self._waiting.add(task, task.left)
        except Empty:
            return True

    def _dismiss(self) -> None:
        """Drop tasks that nobody waits for, wherever in the order they are."""
        for task in self._waiting:
            try:
                task.check()
            except Exception as error:
                self._settle(task, as_impasto_error(error))

    def _read(self) -> list[tuple[Task, Array]]:
        """Read pictures for a pass, by turns, each with its task. A task with an unreadable picture is over."""
        batch: list[tuple[Task, Array]] = []
        pixels = 0
        while len(batch) < BATCH and pixels < MOST_PIXELS and (task := self._waiting.take()) is not None:
            pixels += task.files[0].pixels
            try:
                task.check()
                batch.append((task, self._scorer.fitted(task.next())))
            except Exception as error:
                self._settle(task, as_impasto_error(error))
                continue
            if task.files:
                self._waiting.add(task, task.left)
        return [(task, row) for task, row in batch if not task.over]

    def _pass(self, batch: list[tuple[Task, Array]]) -> None:
        """Embed a batch, then compare for the tasks that have all their embeddings."""
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
            if len(task.embeds) == task.count:
                self._compare(task)

    def _compare(self, task: Task) -> None:
        try:
            outcome: Array | ImpastoError = task.comparison.scores(np.stack(task.embeds), self._scorer)
        except Exception as error:
            outcome = as_impasto_error(error)
        self._settle(task, outcome)

    def _settle(self, task: Task, outcome: Array | ImpastoError) -> None:
        task.over = True
        self._waiting.drop(task)
        self._admission.leave(self._stats)
        try:
            task.done(outcome)
        except Exception as error:  # the caller's fault, and no reason to stop serving the others
            log.error("a caller's callback failed", exc_info=error)

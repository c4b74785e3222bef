"""The lookout: it checks jobs that wait for a file, pages of the bank, a thread or their decoding."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Condition, Event, Thread
from time import thread_time

from impasto_server.job import Job

log = logging.getLogger(__name__)

PERIOD_S = 0.005
SHARE = 0.005  # of a core, at most


class Lookout:
    """One thread that checks every watched job every few milliseconds, less often when that takes too much of a core.
    It sleeps while there is none.
    """

    def __init__(self, overdue: Callable[[Job, Exception], None]) -> None:
        """`overdue` is called once for a job whose check fails, with the error; it must return at once."""
        self._overdue = overdue
        self._jobs: set[Job] = set()
        self._changed = Condition()
        self._closing = Event()
        self._thread = Thread(target=self._run, name="lookout", daemon=True)
        self._thread.start()

    def watch(self, job: Job) -> None:
        with self._changed:
            self._jobs.add(job)
            self._changed.notify()

    def release(self, job: Job) -> bool:
        """Stop watching the job. False when it wasn't watched: it was released before, or found overdue."""
        with self._changed:
            found = job in self._jobs
            self._jobs.discard(job)
        return found

    def close(self) -> None:
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        pause_s = PERIOD_S
        while not self._closing.wait(pause_s):
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closing.is_set())
            started = thread_time()
            self._look()
            pause_s = max(PERIOD_S, (thread_time() - started) / SHARE)

    def _look(self) -> None:
        with self._changed:
            jobs = list(self._jobs)
        for job in jobs:
            try:
                job.check()
            except Exception as error:
                if self.release(job):
                    self._tell(job, error)

    def _tell(self, job: Job, why: Exception) -> None:
        try:
            self._overdue(job, why)
        except Exception as error:  # the other jobs must still be checked
            log.error("an overdue job could not be settled", exc_info=error)

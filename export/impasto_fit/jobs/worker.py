"""Takes jobs of a folder, one at a time, the oldest first; as many workers as one likes take from one folder."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from impasto_export.errors import DiskFull
from impasto_fit.errors import JobError
from impasto_fit.jobs.claim import claimed
from impasto_fit.jobs.folder import Folder
from impasto_fit.jobs.job import Job, Status

PAUSE = 30.0  # seconds, after a disk was full
Do = Callable[[Job, Callable[[], bool]], Status]


@dataclass
class Worker:
    """`do` does a job; `every` are seconds between two looks into the folder. `said` hears what happened."""

    folder: Folder
    do: Do
    said: Callable[[str], None]
    every: float = 2.0
    _stop: threading.Event = field(default_factory=threading.Event, init=False)

    def stop_at_signals(self) -> None:
        """SIGTERM and SIGINT: keep the state, give the job back, end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())

    def run(self, once: bool = False) -> None:
        """Until it is stopped; with `once`, until there is nothing to do.

        Raises:
            DiskFull: with `once`.
        """
        while not self._stop.is_set():
            try:
                took = self.turn()
            except DiskFull as error:
                if once:
                    raise
                self.said(str(error))
                self._stop.wait(PAUSE)
                continue
            if not took:
                if once:
                    return
                self._stop.wait(self.every)

    def turn(self) -> bool:
        """Do one job, if one is to be had.

        Raises:
            DiskFull: it is given back.
        """
        for job in self.folder.all():
            if not is_due(job):
                continue
            with claimed(job) as mine:
                if mine and is_due(job):  # another may have done it since
                    self.said(f"{job.id}: taken")
                    try:
                        status = self.do(job, self._stop.is_set)
                    except (OSError, JobError) as error:  # its folder can't be written, or went away
                        self.said(f"{job.id}: left alone: {error}")
                        continue
                    self.said(f"{job.id}: {status.state}{f': {status.error}' if status.error else ''}")
                    return True
        return False


def is_due(job: Job) -> bool:
    """Whether there is something to do for a worker; of a job that says it is running, if its lock can be had.

    One that is damaged is due once, to be told so.
    """
    try:
        status = job.status()
        if status.state == "picking":
            return job.is_cancelled or job.picks(status.round) is not None
    except JobError:
        return True
    return status.state in ("queued", "running")


def calm(nice: int) -> None:
    """Let everything else of this machine go first; 19 is the calmest.

    Raises:
        JobError: that isn't allowed.
    """
    try:
        os.nice(nice)
    except OSError as error:
        raise JobError(f"nice: got {nice} ({error.strerror}); give 0 to 19") from None

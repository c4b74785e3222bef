"""Which adapters the requests under way wear: routers send a request to where its adapters are at work already."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock

from impasto_server.job import Job
from impasto_server.worn import adapter_fields


@dataclass(frozen=True)
class Wearing:
    """Names of adapters of jobs in the step loop, and of jobs that wait for it; each once, sorted."""

    running: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


class Wearers:
    """The jobs under way that wear adapters; thread-safe. `most` adapters fit in the bank at a time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._running: dict[Job, frozenset[str]] = {}
        self._waiting: dict[Job, frozenset[str]] = {}
        self._lock = Lock()

    def wait(self, job: Job) -> None:
        """A job whose names are known, and which isn't over."""
        fields = adapter_fields(job.request)
        names = frozenset(one.name for one in job.named if one.field in fields)
        with self._lock:
            if names:
                self._waiting[job] = names
        if job.over:  # whoever settled it may have come before us
            self.leave(job)

    def run(self, job: Job) -> None:
        """A waiting job that joins the step loop."""
        with self._lock:
            if job in self._waiting:
                self._running[job] = self._waiting.pop(job)

    def leave(self, job: Job) -> None:
        """A job that is over."""
        with self._lock:
            self._waiting.pop(job, None)
            self._running.pop(job, None)

    def read(self) -> Wearing:
        """Both, at one moment."""
        with self._lock:
            return Wearing(_each(self._running.values()), _each(self._waiting.values()))


def _each(names: Iterable[frozenset[str]]) -> tuple[str, ...]:
    return tuple(sorted(frozenset().union(*names)))

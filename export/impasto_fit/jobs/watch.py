"""Who watches a job's fit: keeps its state, tells how it stands, paints previews, hears of cancels and of SIGTERM."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from impasto_export import atomic
from impasto_fit.jobs.job import PREVIEW, Job, Status
from impasto_fit.jobs.plan import png
from impasto_fit.progress import Report, Wish


@dataclass(frozen=True)
class Pace:
    """Seconds between two of each. A preview waits for ten times as long as the last one took, too."""

    kept: float = 30.0
    told: float = 2.0
    seen: float = 5.0


USUAL = Pace()


@dataclass
class Watch:
    """Of one round, whose state is kept in `state`. `stopping` tells that this worker shall give the job back."""

    job: Job
    status: Status
    state: Path
    minutes: float
    stopping: Callable[[], bool]
    shown: Callable[[Status], None]
    pace: Pace
    _begun: float = field(default=0.0, init=False)
    _part: tuple[str, int] = field(default=("", 0), init=False)
    _due: dict[str, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._begun = time.monotonic()
        self._due = {"kept": self._begun + self.pace.kept, "told": 0.0, "seen": 0.0}

    def kept(self) -> bytes | None:
        return self.state.read_bytes() if self.state.is_file() else None

    def __call__(self, report: Report) -> Wish:
        """
        Raises:
            JobError: the job was removed.
            OSError: the disk is full; what was kept before is whole.
        """
        self.job.check()
        now = time.monotonic()
        self._stand(report, now)
        if self.job.is_cancelled or self.stopping():
            self._keep(report)
            return Wish.CANCEL
        if now >= self._due["kept"]:
            self._keep(report)
        if now >= self._due["seen"]:
            atomic.write(self.job.folder / PREVIEW, png(report.preview()))
            took = time.monotonic() - now
            self._due["seen"] = time.monotonic() + max(self.pace.seen, 10 * took)
        if now >= self._due["told"]:
            self.status = self.job.tell("step", self.status)
            self._due["told"] = time.monotonic() + self.pace.told
        self.shown(self.status)
        return Wish.GO_ON

    def _keep(self, report: Report) -> None:
        atomic.write(self.state, report.state())
        self.status = replace(self.status, attempts=0)
        self._due["kept"] = time.monotonic() + self.pace.kept

    def _stand(self, report: Report, now: float) -> None:
        if report.part != self._part[0]:
            self._part, self._begun = (report.part, report.step), now
        done = report.step - self._part[1]
        left = (report.steps - report.step) * (now - self._begun) / done if done else None
        if left is not None:
            left = round(max(0.0, min(left, 60 * self.minutes - (now - self._begun))), 1)
        self.status = replace(
            self.status, part=report.part, step=report.step, steps=report.steps, loss=report.loss, left_s=left
        )

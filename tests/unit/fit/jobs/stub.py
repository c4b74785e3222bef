"""A recipe of a few quick steps, jobs of it, and a worker as a process of its own."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from impasto_fit import pictures as looked_at
from impasto_fit.budget import Budget
from impasto_fit.draws import Draws
from impasto_fit.errors import Diverged
from impasto_fit.jobs import plan
from impasto_fit.jobs.folder import Folder
from impasto_fit.jobs.job import Job, Status
from impasto_fit.jobs.plan import Given
from impasto_fit.jobs.request import Request
from impasto_fit.jobs.submit import submit
from impasto_fit.jobs.watch import Pace
from impasto_fit.jobs.work import Work
from impasto_fit.jobs.worker import Worker
from impasto_fit.loop import Session, Task
from impasto_fit.pictures import Picture
from impasto_fit.progress import Progress, Report, Wish
from impasto_fit.provenance import Provenance
from impasto_fit.recipe import Words
from tests.helpers.fits import striped

ROOT = Path(__file__).parents[4]
EAGER = Pace(0.0, 0.0, 0.0)  # everything at every step


@dataclass(frozen=True)
class Dying:
    """Passes on to `progress`, and is killed after step `die`, as by the kernel."""

    progress: Progress
    die: int

    def kept(self) -> bytes | None:
        return self.progress.kept()

    def __call__(self, report: Report) -> Wish:
        wish = self.progress(report)
        if report.step == self.die:
            os.kill(os.getpid(), signal.SIGKILL)
        return wish


@dataclass(frozen=True)
class Stub:
    """Its result is what a weight has become."""

    die: int = 0
    seed: int = 0
    fails: bool = False

    def fit(self, pictures: Sequence[Picture], words: Words, budget: Budget, progress: Progress) -> bytes:
        looked_at.check(pictures)
        if self.fails:
            raise Diverged("loss: is nan at step 1 of stub; use a smaller learning rate")
        source = Provenance("Stub", {}, "", tuple(map(looked_at.digest, pictures)), {})
        session = Session(source.fit, self.seed, Dying(progress, self.die))
        weight = nn.Parameter(torch.zeros(4))

        def loss(draws: Draws) -> torch.Tensor:
            return (weight - torch.randn(4, generator=draws.torch)).square().sum()

        task = Task({"weight": weight}, torch.optim.Adam([weight], 0.1), loss, lambda: striped(0, 16, 16))
        session.run("stub", task, budget)
        return weight.detach().numpy().tobytes()


def stubbed(die: int) -> None:
    """From now on `gatys` is the stub."""

    def made(given: Given) -> Stub:
        return Stub(die)

    plan.MADE["gatys"] = made  # type: ignore[index]


def asked(steps: int = 6, **more: Any) -> Request:
    return Request("gatys", steps, uses={"eyes": "eyes.pth"}, **more)


def picture(path: Path, seed: int = 0) -> Path:
    buffer = io.BytesIO()
    Image.fromarray(striped(seed)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    return path


def put(home: Path, **more: Any) -> Job:
    one = picture(home / "painting.png")
    return submit(Folder(home / "jobs"), asked(**more), {"pictures": [one], "photos": [one]})


def done(job: Job) -> Status:
    return Work(lambda: False, pace=EAGER).do(job)


def process(place: Path, die: int = 0) -> subprocess.Popen[str]:
    """A worker that ends when there is nothing to do, or is killed after step `die` of a job."""
    command = [sys.executable, "-m", "tests.unit.fit.jobs.stub", str(place), str(die)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    stubbed(int(sys.argv[2]))
    worker = Worker(Folder(Path(sys.argv[1])), lambda job, stopping: Work(stopping, pace=EAGER).do(job), print)
    worker.stop_at_signals()
    worker.run(once=True)

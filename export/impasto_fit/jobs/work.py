"""One job, from where it stands to its end, or to where a person has to pick."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from impasto_export import atomic, manifest
from impasto_export.errors import DiskFull, ExportError
from impasto_fit.errors import Cancelled, CheckpointError, FitError, JobError
from impasto_fit.jobs import plan
from impasto_fit.jobs.job import Job, Status
from impasto_fit.jobs.kinds import CLIP, KINDS
from impasto_fit.jobs.plan import Given
from impasto_fit.jobs.request import Request
from impasto_fit.jobs.shelf import register
from impasto_fit.jobs.watch import USUAL, Pace, Watch
from impasto_fit.masked import rounds
from impasto_fit.masked.rounds import Samples
from impasto_fit.pictures import Picture, read
from impasto_fit.recipe import Recipe, Words
from impasto_fit.served import imported
from impasto_fit.text import clip as clips

MOST_ATTEMPTS = 5  # of workers that died over a job without getting it any further
FITTED = "fitted.safetensors"
SUFFIX = {"adapter": ".safetensors", "net": ".safetensors", "picture": ".png"}


def nobody(status: Status) -> None:
    """Looks at nothing."""


@dataclass(frozen=True)
class Work:
    """`stopping` tells that the job shall be given back soon; `shown` hears of every step."""

    stopping: Callable[[], bool]
    shown: Callable[[Status], None] = nobody
    pace: Pace = USUAL

    def do(self, job: Job) -> Status:
        """How the job stands then. Whoever calls has claimed it. What goes wrong with it is told in its status.

        Raises:
            DiskFull: it stays where it was; there is no room for more.
            JobError: it was removed meanwhile.
        """
        try:
            status = job.status()
        except JobError as error:
            return job.tell("failed", Status("failed", error=str(error)))
        try:
            return self._begin(job, status)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _full(job, error) from None
            return self._fail(job, str(error))
        except (FitError, ExportError) as error:
            return self._ended(job, error)
        except Exception as error:  # whatever it is, the next job may be well
            traceback.print_exc(file=sys.stderr)
            return self._fail(job, f"{type(error).__name__}: {error}")

    def _begin(self, job: Job, status: Status) -> Status:
        if job.is_cancelled:
            return job.tell("cancelled", replace(status, state="cancelled"))
        if status.attempts >= MOST_ATTEMPTS:
            raise JobError(f"{status.attempts} workers died over it, maybe for want of memory; make it smaller")
        worker = f"{socket.gethostname()}:{os.getpid()}"
        status = replace(status, state="running", worker=worker, attempts=status.attempts + 1, error="")
        job.tell("running", status)
        request = job.request()
        if request.recipe not in KINDS:
            raise JobError(f"recipe: got {request.recipe!r}; choose {', '.join(KINDS)}")
        if request.bundle:
            _check_bundle(request)
        return self._rounds(job, request)

    def _rounds(self, job: Job, request: Request) -> Status:
        given = Given.of(job, request)
        pictures, words = given.shown, plan.words(job, given)
        for number in range(1, request.rounds + 1):
            recipe = plan.drop(given, number) if request.recipe == "drop" else plan.recipe(given)
            data = self._fitted(job, request, number, recipe, pictures, words)
            if number == request.rounds:
                break
            samples = _samples(job, given, number, data)
            picks = _picks(job, given, number, samples)
            if picks is None:
                return job.tell("picking", replace(job.status(), state="picking", worker="", attempts=0, left_s=None))
            pictures, words = samples.picked(picks, given.shown, plan.words(job, given))
        return _finish(job, request, data)

    def _fitted(
        self, job: Job, request: Request, number: int, recipe: Recipe, pictures: list[Picture], words: Words
    ) -> bytes:
        """The recipe's bytes, which an earlier worker may have made already."""
        place = job.round(number)
        if (place / FITTED).is_file():
            return (place / FITTED).read_bytes()
        status = job.tell("round", replace(job.status(), round=number))
        budget = request.budget
        watch = Watch(job, status, place / "state", budget.minutes, self.stopping, self.shown, self.pace)
        try:
            data = recipe.fit(pictures, words, budget, watch)
        finally:
            job.tell("step", watch.status)
        atomic.write(place / FITTED, data)
        (place / "state").unlink(missing_ok=True)
        return data

    def _ended(self, job: Job, error: Exception) -> Status:
        """Cancelled, given back, or failed."""
        status = job.status()
        if job.is_cancelled:
            return job.tell("cancelled", replace(status, state="cancelled", worker="", left_s=None))
        if isinstance(error, Cancelled) and self.stopping():
            return job.tell("queued", replace(status, state="queued", worker="", attempts=0))
        return self._fail(job, str(error))

    def _fail(self, job: Job, problem: str) -> Status:
        status = replace(job.status(), state="failed", error=problem, worker="", left_s=None)
        return job.tell("failed", status)


def _full(job: Job, error: OSError) -> DiskFull:
    """No worker died over the job, so that none is counted; where not even that can be written, none is."""
    with contextlib.suppress(OSError):
        job.tell("full", replace(job.status(), state="queued", worker="", attempts=0))
    problem = f"{job.id}: its disk, or the registry's, is full ({error.filename or error.strerror})"
    return DiskFull(f"{problem}; make room, and it goes on from what it kept")


def _check_bundle(request: Request) -> None:
    try:
        manifest.load(Path(request.bundle))
    except ExportError as error:
        raise CheckpointError(f"bundle: {error}") from None


def _samples(job: Job, given: Given, number: int, data: bytes) -> Samples:
    """What a round's adapter paints, as files of the job."""
    place, request = job.round(number), given.request
    if not (place / "samples.json").is_file():
        found = rounds.samples(plan.drop(given, number), data, request.others, request.style)
        rows = []
        for i, (picture, context) in enumerate(zip(found.pictures, found.contexts, strict=True)):
            rows.append({"file": f"samples/{i:03}.png", "context": context})
            atomic.write(place / rows[-1]["file"], plan.png(picture))
        atomic.write(place / "samples.json", json.dumps(rows, indent=1, ensure_ascii=False).encode())
    rows = job.samples(number)
    return Samples(tuple(read(place / row["file"]) for row in rows), tuple(row["context"] for row in rows))


def _picks(job: Job, given: Given, number: int, samples: Samples) -> list[int] | None:
    """A CLIP's, where the request names one; else a person's, or None."""
    if CLIP in given.request.uses:
        return rounds.by_clip(clips.opened(given.request.uses[CLIP]), samples, given.shown)
    return job.picks(number)


def _finish(job: Job, request: Request, data: bytes) -> Status:
    """Write the result, then register it, then say so: who dies in between does the rest again."""
    job.check()  # who removed it wants no adapter
    gives = KINDS[request.recipe].gives
    result = f"result{SUFFIX[gives]}"
    made = imported(data, Path(request.bundle)) if gives == "adapter" else data
    atomic.write(job.folder / result, made)
    digest = register(request, made) if gives == "adapter" else ""
    status = replace(job.status(), state="done", worker="", left_s=None, digest=digest, result=result)
    return job.tell("done", status)

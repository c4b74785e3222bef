"""The folder of all jobs: one appears whole or not at all, and a name is fitted by one job at a time."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from impasto_export import atomic
from impasto_fit.errors import JobError
from impasto_fit.jobs.claim import claimed
from impasto_fit.jobs.job import CANCEL, ENDED, REQUEST, Job, Status, now
from impasto_fit.jobs.request import Request

ENVIRONMENT = "IMPASTO_JOBS"


def default_place() -> Path:
    """The folder that is used when none is named."""
    return Path(os.environ.get(ENVIRONMENT) or Path.home() / ".local/share/impasto/jobs")


@dataclass(frozen=True)
class Folder:
    """It may lie on a disk that several machines share, if its locks are shared, too (NFS 4 does so)."""

    place: Path

    def all(self) -> list[Job]:
        """Damaged ones, too; the oldest first. A folder without a job.json is none."""
        if not self.place.is_dir():
            return []
        found = sorted(one for one in self.place.iterdir() if not one.name.startswith("."))
        return [Job(one) for one in found if (one / REQUEST).is_file()]

    def find(self, start: str) -> Job:
        """The job whose id is `start`, or alone ends or begins so.

        Raises:
            JobError: there is none, or several.
        """
        found = [job for job in self.all() if job.id.startswith(start) or job.id.endswith(start)]
        if len(found) != 1:
            problem = "several jobs have such an id" if found else "there is no such job"
            raise JobError(f"{start}: {problem} in {self.place}; `impasto fit list` names them")
        return found[0]

    def put(self, request: Request, files: Mapping[str, Sequence[Path]]) -> Job:
        """A new job, with copies of its files.

        Raises:
            JobError: another job fits this name.
            OSError: the folder can't be written; nothing of the job is left.
        """
        self.place.mkdir(parents=True, exist_ok=True)
        draft = Path(mkdtemp(prefix=".draft.", dir=self.place))
        try:
            draft.chmod(0o755)
            asked = replace(request, **_copied(files, draft), made=now())
            atomic.write(draft / REQUEST, asked.dump())
            Job(draft).tell("queued", Status("queued", steps=request.steps))
            with atomic.alone(self.place):
                self._check_name(request)
                job = Job(self.place / f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-{secrets.token_hex(3)}")
                draft.rename(job.folder)
                atomic.sync_folder(self.place)
            return job
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def cancel(self, job: Job) -> Status:
        """Ask for its end; where nobody works on it, it has ended already. What it kept stays.

        Raises:
            JobError: it has ended before.
        """
        status = job.status()
        if status.state in ENDED:
            raise JobError(f"{job.id}: is {status.state} already")
        atomic.write(job.folder / CANCEL, b"")
        with claimed(job) as mine:
            status = job.status()
            if not mine or status.state in ENDED:
                return status
            return job.tell("cancelled", replace(status, state="cancelled"))

    def resume(self, job: Job) -> Status:
        """Let a job that failed or was cancelled go on from what it kept.

        Raises:
            JobError: it is under way or done, or another job fits its name now.
        """
        with atomic.alone(self.place), claimed(job) as mine:
            status = job.status()
            if not mine or status.state not in ("failed", "cancelled"):
                raise JobError(f"{job.id}: is {status.state}; only a job that failed or was cancelled is resumed")
            self._check_name(job.request())
            (job.folder / CANCEL).unlink(missing_ok=True)
            return job.tell("queued", replace(status, state="queued", error="", attempts=0))

    def _check_name(self, request: Request) -> None:
        """
        Raises:
            JobError: a job that hasn't ended fits the same name for the same registry.
        """
        for other in self.all() if request.name else ():
            try:
                if other.status().state in ENDED:
                    continue
                asked = other.request()
            except JobError:
                continue
            if (asked.name, asked.registry) == (request.name, request.registry):
                fix = f"choose another name, or `impasto fit cancel {other.id}`"
                raise JobError(f"name: {request.name!r} is being fitted by job {other.id}; {fix}")


def _copied(files: Mapping[str, Sequence[Path]], draft: Path) -> dict[str, Any]:
    """Names and digests of the copies."""
    names: dict[str, object] = {}
    digests: dict[str, object] = {}
    for role, sources in files.items():
        inputs = []
        for place, source in enumerate(sources):
            name = f"inputs/{role}-{place:03}{source.suffix.lower()}"
            data = source.read_bytes()
            atomic.write(draft / name, data)
            digests[name] = hashlib.sha256(data).hexdigest()
            inputs.append(name)
        names[role] = tuple(inputs)
    return {"inputs": names, "digests": digests}

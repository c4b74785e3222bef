"""One job's folder: what was asked for never changes, the status is always whole, and events are lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from impasto_export import atomic
from impasto_fit.errors import JobError
from impasto_fit.jobs.request import Request

State = Literal["queued", "running", "picking", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")
REQUEST, STATUS, EVENTS, LOCK, CANCEL, PREVIEW = (
    "job.json",
    "status.json",
    "events.jsonl",
    "lock",
    "cancel",
    "preview.png",
)


@dataclass(frozen=True)
class Status:
    """`step` of `steps` within a `part` of the recipe; `left_s` is about how long the part still takes, in seconds.

    `attempts` counts workers that took the job up since its state was kept last. `digest` is the adapter's, `result`
    the name of a file in the folder.
    """

    state: State
    round: int = 1
    part: str = ""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    left_s: float | None = None
    error: str = ""
    worker: str = ""
    attempts: int = 0
    digest: str = ""
    result: str = ""
    changed: str = ""


@dataclass(frozen=True)
class Job:
    """The folder's name is the job's id; ids sort by age."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    def request(self) -> Request:
        """
        Raises:
            JobError: it is damaged.
        """
        return Request.parse(self._read(REQUEST))

    def status(self) -> Status:
        """
        Raises:
            JobError: it is damaged.
        """
        try:
            found = json.loads(self._read(STATUS))
            if found["state"] not in get_args(State) or not found.keys() <= {one.name for one in fields(Status)}:
                raise ValueError("state")
            return Status(**found)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise JobError(f"{self.id}: {STATUS} is damaged; ask for the job anew") from None

    def check(self) -> None:
        """
        Raises:
            JobError: somebody removed it; what is written there now would be no job.
        """
        if not (self.folder / REQUEST).is_file():
            raise JobError(f"{self.id}: it was removed; ask for the job anew")

    def tell(self, event: str, status: Status) -> Status:
        """Write the status, then a line of what happened.

        Raises:
            JobError: it was removed.
            OSError: it can't be written; what was there before is whole.
        """
        self.check()
        status = replace(status, changed=now())
        atomic.write(self.folder / STATUS, json.dumps(asdict(status), indent=1, ensure_ascii=False).encode() + b"\n")
        facts = {name: value for name, value in asdict(status).items() if value not in ("", None)}
        self._append({"event": event, **facts})
        return status

    def events(self) -> Iterator[dict[str, Any]]:
        """A line that a dying worker cut short is left out."""
        path = self.folder / EVENTS
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                yield json.loads(line)
            except ValueError:
                continue

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody asked for that."""
        return (self.folder / CANCEL).exists()

    def round(self, number: int) -> Path:
        return self.folder / "rounds" / str(number)

    def samples(self, number: int) -> list[dict[str, str]]:
        """`file` and `context` of each that a round has painted to pick from; [] before it is done.

        Raises:
            JobError: the file is damaged.
        """
        path = self.round(number) / "samples.json"
        if not path.is_file():
            return []
        try:
            return [{"file": row["file"], "context": row["context"]} for row in json.loads(path.read_bytes())]
        except (ValueError, KeyError, TypeError):
            fix = "delete it, and resume the job: they are painted again"
            raise JobError(f"{self.id}: {path.name} of round {number} is damaged; {fix}") from None

    def picks(self, number: int) -> list[int] | None:
        """None while nobody has picked.

        Raises:
            JobError: the file is damaged.
        """
        path = self.round(number) / "picks.json"
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, list) or not all(type(one) is int for one in found):
                raise ValueError("picks")
        except ValueError:
            problem = f"{path.name} of round {number} is no list of numbers"
            raise JobError(f"{self.id}: {problem}; make it one, and resume the job") from None
        return found

    def pick(self, which: Sequence[int]) -> None:
        """Say which samples the next round learns from.

        Raises:
            JobError: the job waits for no picks, or there is no such sample.
        """
        status = self.status()
        if status.state != "picking":
            raise JobError(f"{self.id}: is {status.state}, and waits for no picks")
        count = len(self.samples(status.round))
        unknown = sorted({one for one in which if not 0 <= one < count})
        if unknown or not which:
            got = ", ".join(map(str, unknown)) or "none"
            raise JobError(f"picks: got {got}; give numbers of samples, 0 to {count - 1}")
        atomic.write(self.round(status.round) / "picks.json", json.dumps(list(dict.fromkeys(which))).encode())

    def _read(self, name: str) -> bytes:
        self.check()
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise JobError(f"{self.id}: {name} can't be read ({error.strerror}); ask for the job anew") from None

    def _append(self, event: dict[str, Any]) -> None:
        """One write; a line that was cut short before is ended first."""
        line = json.dumps(event, ensure_ascii=False).encode() + b"\n"
        with (self.folder / EVENTS).open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)


def now() -> str:
    """UTC, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")

"""Put a job there; and unless a worker shall take it, work on it here, where one can watch."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from impasto_export.adapters.registry import default_place
from impasto_export.stores import is_address
from impasto_fit.cli.options import folder, reported
from impasto_fit.jobs.claim import claimed
from impasto_fit.jobs.job import PREVIEW, Job, Status
from impasto_fit.jobs.request import Request


def begin(request: Request, files: Mapping[str, Sequence[Path]], jobs: Path | None, detach: bool) -> None:
    """Exit status 1 where the request is refused, or the fit fails."""
    with reported():
        from impasto_fit.jobs.submit import submit

        job = submit(folder(jobs), request, files)
        typer.echo(job.id if detach else f"job {job.id}; preview: {job.folder / PREVIEW}")
        if not detach:
            watched(job)


def watched(job: Job) -> None:
    """Work on the job here. Ctrl-C gives it back."""
    from impasto_fit.jobs.work import Work

    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with claimed(job) as mine:
        if not mine:
            typer.echo(f"{job.id}: a worker has taken it; `impasto fit show {job.id}`")
            return
        with _bar() as bar:
            task = bar.add_task("opening", total=None, loss="")

            def shown(status: Status) -> None:
                what = f"{status.part}" if status.round == 1 else f"round {status.round}: {status.part}"
                loss = "" if status.loss is None else f"loss {status.loss:.4g}"
                bar.update(task, description=what, completed=status.step, total=status.steps, loss=loss)

            status = Work(stop.is_set, shown).do(job)
    _tell(job, status)


def _tell(job: Job, status: Status) -> None:
    """How it ended."""
    if status.state == "failed":
        typer.echo(f"error: {status.error}", err=True)
        raise typer.Exit(1)
    ends = {
        "queued": f"given back; `impasto fit resume {job.id}` or a worker goes on with it",
        "picking": f"look at {job.round(status.round) / 'samples'}, then `impasto fit pick {job.id} 3 7 …`",
        "cancelled": "cancelled",
        "done": f"{job.folder / status.result}",
    }
    if status.digest:
        request = job.request()
        ends["done"] = f"{request.name}: {status.digest[:12]}, in {request.registry}"
    typer.echo(ends[status.state])


@contextmanager
def _bar() -> Iterator[Progress]:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield bar


def registry_place(registry: str | None) -> str:
    """As any process on any folder finds it."""
    place = registry or default_place()
    return place if is_address(place) else os.path.abspath(place)


def place_of(where: str) -> str:
    """An existing path, absolute; anything else, such as a hub's id, as it is."""
    return os.path.abspath(where) if where and Path(where).exists() else where

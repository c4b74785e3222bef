"""Commands that look after jobs, and the one that works on them."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated

import typer

from impasto_export.cli.printed import AsJson, show
from impasto_fit.cli.app import fit
from impasto_fit.cli.foreground import watched
from impasto_fit.cli.options import Id, Jobs, Threads, folder, reported
from impasto_fit.errors import JobError
from impasto_fit.jobs.claim import is_claimed
from impasto_fit.jobs.job import Job, Status
from impasto_fit.jobs.worker import Worker, calm


@fit.command()
def worker(
    jobs: Jobs = None,
    nice: Annotated[int, typer.Option("--nice", help="How far everything else goes first, 0 to 19.")] = 10,
    threads: Threads = 0,
    once: Annotated[bool, typer.Option("--once", help="End when there is nothing to do.")] = False,
    every: Annotated[float, typer.Option("--every", help="Seconds between two looks for a job.")] = 2.0,
) -> None:
    """Take jobs of the folder, one at a time; SIGTERM gives back the one under way. There may be several workers."""
    with reported():
        place = folder(jobs)
        place.place.mkdir(parents=True, exist_ok=True)
        calm(nice)
        set_threads(threads)
        from impasto_fit.jobs.work import Work

        one = Worker(place, lambda job, stopping: Work(stopping).do(job), lambda text: typer.echo(text), every)
        one.stop_at_signals()
        typer.echo(f"takes jobs of {place.place}")
        one.run(once)


def set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // 2))


@fit.command("list")
def list_jobs(jobs: Jobs = None, as_json: AsJson = False) -> None:
    """List the jobs, the oldest first."""
    with reported():
        rows = [_document(job) for job in folder(jobs).all()]
        lines = [_line(row) for row in rows]
        show(as_json, rows, *lines or ["no jobs"])


@fit.command("show")
def show_job(job_id: Id, jobs: Jobs = None, as_json: AsJson = False) -> None:
    """Show how a job stands."""
    with reported():
        job = folder(jobs).find(job_id)
        document = {**_document(job), "folder": str(job.folder), "request": asdict(job.request())}
        lines = [_line(document), *(f"  {name}: {value}" for name, value in document.items() if _is_worth(name, value))]
        show(as_json, document, *lines)


@fit.command()
def cancel(job_id: Id, jobs: Jobs = None) -> None:
    """End a job; what it kept stays, and `resume` goes on from it."""
    with reported():
        place = folder(jobs)
        job = place.find(job_id)
        status = place.cancel(job)
        typer.echo(f"{job.id}: {status.state if status.state == 'cancelled' else 'its worker ends it after this step'}")


@fit.command()
def resume(
    job_id: Id,
    jobs: Jobs = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it to a worker.")] = False,
) -> None:
    """Go on with a job that was killed, cancelled, given back, or failed."""
    with reported():
        place = folder(jobs)
        job = place.find(job_id)
        if job.status().state in ("failed", "cancelled"):
            place.resume(job)
        elif job.status().state in ("done", "picking"):
            raise JobError(f"{job.id}: is {job.status().state}; there is nothing to go on with")
        if not detach:
            watched(job)


@fit.command()
def pick(
    job_id: Id,
    which: Annotated[list[int], typer.Argument(metavar="NUMBER…", help="Samples of the round, counted from 0.")],
    jobs: Jobs = None,
) -> None:
    """Pick the good samples of a round; the next one learns from them, too, when a worker takes it."""
    with reported():
        job = folder(jobs).find(job_id)
        job.pick(which)
        typer.echo(f"{job.id}: {len(set(which))} picked")


def _document(job: Job) -> dict[str, object]:
    try:
        request, status = job.request(), job.status()
    except JobError as error:
        return {"id": job.id, **asdict(Status("failed", error=str(error))), "recipe": "?", "name": ""}
    lost = status.state == "running" and not is_claimed(job)
    note = {"error": "its worker is gone; another goes on from what was kept"} if lost else {}
    return {"id": job.id, "recipe": request.recipe, "name": request.name, **asdict(status), **note}


def _line(row: dict[str, object]) -> str:
    step = f" {row['step']}/{row['steps']}" if row["state"] == "running" else ""
    what = " ".join(str(row[key]) for key in ("recipe", "name") if row[key])
    return f"{row['id']}  {row['state']}{step}  {what}{'  ' if row['error'] else ''}{row['error']}"


def _is_worth(name: str, value: object) -> bool:
    return name not in ("id", "state", "recipe", "name", "error", "request", "attempts") and value not in ("", None)

"""Workers that are killed, stopped, or several: a job is done once, and comes out as if nothing had been."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from signal import SIG_IGN, SIGINT, SIGKILL, SIGTERM, signal

import pytest

from impasto_export import atomic
from impasto_export.errors import DiskFull
from impasto_fit.jobs import plan
from impasto_fit.jobs.claim import claimed, is_claimed
from impasto_fit.jobs.folder import Folder
from impasto_fit.jobs.job import Job, Status
from impasto_fit.jobs.work import MOST_ATTEMPTS, Work
from impasto_fit.jobs.worker import Worker, is_due
from tests.unit.fit.jobs.stub import EAGER, Stub, done, process, put

pytestmark = pytest.mark.usefixtures("stub")


def worker(home: Path, do: Callable[[Job, Callable[[], bool]], Status] | None = None) -> Worker:
    return Worker(Folder(home / "jobs"), do or (lambda job, stopping: Work(stopping, pace=EAGER).do(job)), print)


@contextmanager
def signals_kept() -> Iterator[None]:
    """The signals' handlers are what they were, afterwards."""
    before = {number: signal(number, SIG_IGN) for number in (SIGTERM, SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal(number, handler)


def test_after_a_kill_another_worker_ends_it_with_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = put(tmp_path), put(tmp_path)
    done(whole)
    with process(tmp_path / "jobs", die=4) as other:  # ends by itself, by SIGKILL after its fourth step
        assert other.wait() == -SIGKILL
    assert killed.status().state == "running"
    assert not is_claimed(killed)
    assert (killed.round(1) / "state").is_file()
    steps: list[int] = []
    with claimed(killed) as mine:
        assert mine
        status = Work(lambda: False, lambda seen: steps.append(seen.step), EAGER).do(killed)
    assert (status.state, steps) == ("done", [5, 6])
    assert (killed.folder / "result.png").read_bytes() == (whole.folder / "result.png").read_bytes()


def test_a_job_is_done_by_one_worker(tmp_path: Path) -> None:
    """The second looks while the first is at work."""
    job, others = put(tmp_path), []

    def do(one: Job, stopping: Callable[[], bool]) -> Status:
        assert is_claimed(one)
        others.append(worker(tmp_path).turn())
        return done(one)

    assert worker(tmp_path, do).turn()
    assert others == [False]
    assert not worker(tmp_path).turn()
    assert [event["event"] for event in job.events()].count("running") == 1


def test_what_was_done_meanwhile_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking and claiming, another worker may have been there."""
    job = put(tmp_path)
    looks = iter([True, False])
    monkeypatch.setattr("impasto_fit.jobs.worker.is_due", lambda one: next(looks))
    assert not worker(tmp_path).turn()
    assert job.status().state == "queued"


def test_a_stopped_worker_gives_the_job_back_with_its_state(tmp_path: Path) -> None:
    whole, job = put(tmp_path), put(tmp_path)
    done(whole)
    seen: list[int] = []
    status = Work(lambda: len(seen) >= 2, lambda one: seen.append(one.step), EAGER).do(job)
    assert (status.state, status.step, status.worker) == ("queued", 3, "")
    worker(tmp_path).run(once=True)
    assert job.status().state == "done"
    assert (job.folder / "result.png").read_bytes() == (whole.folder / "result.png").read_bytes()


def test_a_job_is_cancelled_under_way_and_resumed(tmp_path: Path) -> None:
    whole, job, folder = put(tmp_path), put(tmp_path), Folder(tmp_path / "jobs")
    done(whole)

    def cancel(seen: Status) -> None:
        folder.cancel(job)

    with claimed(job):
        status = Work(lambda: False, cancel, EAGER).do(job)
    assert (status.state, status.step) == ("cancelled", 2)
    assert not is_due(job)
    folder.resume(job)
    assert done(job).state == "done"
    assert (job.folder / "result.png").read_bytes() == (whole.folder / "result.png").read_bytes()


def test_a_waiting_job_is_cancelled_at_once(tmp_path: Path) -> None:
    job = put(tmp_path)
    assert Folder(tmp_path / "jobs").cancel(job).state == "cancelled"
    assert not worker(tmp_path).turn()


def test_a_job_that_is_removed_while_it_runs_stays_away(tmp_path: Path) -> None:
    job = put(tmp_path)

    def remove(seen: Status) -> None:
        if seen.step == 2:
            shutil.rmtree(job.folder)

    said: list[str] = []
    doing = Worker(Folder(tmp_path / "jobs"), lambda one, stop: Work(stop, remove, EAGER).do(one), said.append)
    doing.run(once=True)
    assert said[-1] == f"{job.id}: left alone: {job.id}: it was removed; ask for the job anew"
    assert not job.folder.exists()


def test_what_fails_while_its_worker_stops_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = put(tmp_path)
    monkeypatch.setitem(plan.MADE, "gatys", lambda given: Stub(fails=True))
    status = Work(lambda: True, pace=EAGER).do(job)
    assert (status.state, status.error[:12]) == ("failed", "loss: is nan")


def test_a_signal_gives_the_job_back(tmp_path: Path) -> None:
    job = put(tmp_path)
    with signals_kept():
        one = worker(tmp_path)
        one.do = lambda job, stopping: Work(stopping, lambda seen: os.kill(os.getpid(), SIGTERM), EAGER).do(job)
        one.stop_at_signals()
        one.run(once=True)
    assert (job.status().state, job.status().worker) == ("queued", "")
    assert (job.round(1) / "state").is_file()
    assert done(job).state == "done"


def test_previews_and_events_are_there_to_be_read(tmp_path: Path) -> None:
    job = put(tmp_path)
    done(job)
    assert (job.folder / "preview.png").read_bytes().startswith(b"\x89PNG")
    events = list(job.events())
    assert [one["step"] for one in events if one["event"] == "step"][:6] == [1, 2, 3, 4, 5, 6]
    assert events[-1]["state"] == "done"
    with (job.folder / "events.jsonl").open("ab") as file:
        file.write(b'{"event": "cu')
    job.tell("again", job.status())
    assert [one["event"] for one in job.events()][-2:] == ["done", "again"]


def test_on_a_full_disk_a_job_stays_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, job = put(tmp_path), put(tmp_path)
    done(whole)
    write = atomic.write

    def full(target: Path, data: bytes) -> None:
        if target.name == "preview.png" and (job.round(1) / "state").is_file():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        write(target, data)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "write", full)
        with pytest.raises(DiskFull, match=r"is full \(.*preview.png\); make room"):
            worker(tmp_path).run(once=True)
    assert (job.status().state, job.status().attempts) == ("queued", 0)
    assert done(job).state == "done"
    assert (job.folder / "result.png").read_bytes() == (whole.folder / "result.png").read_bytes()


def test_a_job_that_kills_its_workers_is_left_alone(tmp_path: Path) -> None:
    job = put(tmp_path)
    job.tell("running", replace(job.status(), state="running", attempts=MOST_ATTEMPTS))
    assert done(job).error == "5 workers died over it, maybe for want of memory; make it smaller"


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("job.json", b"{", "job.json: can't be read as a job of this version"),
        ("status.json", b'{"state": "odd"}', "status.json is damaged"),
        ("inputs/pictures-000.png", b"other", "inputs/pictures-000.png isn't what was put there"),
    ],
)
def test_a_damaged_job_fails_and_the_next_is_done(name: str, data: bytes, problem: str, tmp_path: Path) -> None:
    damaged, well = put(tmp_path), put(tmp_path)
    (damaged.folder / name).write_bytes(data)
    worker(tmp_path).run(once=True)
    assert (damaged.status().state, well.status().state) == ("failed", "done")
    assert problem in damaged.status().error


def test_an_unknown_recipe_in_a_folder_fails(tmp_path: Path) -> None:
    job = put(tmp_path)
    found = json.loads((job.folder / "job.json").read_bytes())
    (job.folder / "job.json").write_text(json.dumps({**found, "recipe": "lore"}))
    assert done(job).error.startswith("recipe: got 'lore'; choose lora, ")

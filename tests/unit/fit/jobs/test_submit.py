"""What is refused before there is a job, and what a person picks from a round."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from impasto_export import link
from impasto_export.errors import ExportError
from impasto_fit.errors import FitError, JobError
from impasto_fit.jobs.folder import Folder
from impasto_fit.jobs.job import Job, Status
from impasto_fit.jobs.request import Request
from impasto_fit.jobs.submit import submit
from tests.unit.fit.jobs.stub import asked, done, picture, put

pytestmark = pytest.mark.usefixtures("stub")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    link.link(Path(__file__).parents[4] / "studio/mini-muse", tmp_path / "bundle")
    return tmp_path / "bundle"


def grey(path: Path) -> Path:
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    return path


def many(folder: Path, count: int) -> Path:
    folder.mkdir()
    first = picture(folder / "0.png")
    for i in range(1, count):
        shutil.copyfile(first, folder / f"{i}.png")
    return folder


def lora(home: Path, bundle: Path, **more: Any) -> Request:
    """One that is right but for `more`."""
    (home / "checkpoint").mkdir(exist_ok=True)
    words: dict[str, Any] = {"style": "stained glass", "name": "glass", "registry": str(home / "registry")}
    return Request("lora", 4, bundle=str(bundle), uses={"checkpoint": str(home / "checkpoint")}, **{**words, **more})


def refused(home: Path, request: Request, files: Mapping[str, Sequence[Path]]) -> str:
    """Why. Nothing was put there."""
    folder = Folder(home / "jobs")
    with pytest.raises((FitError, ExportError)) as caught:
        submit(folder, request, files)
    assert folder.all() == []
    return str(caught.value)


def test_pictures_that_teach_nothing(tmp_path: Path) -> None:
    well, text = picture(tmp_path / "well.png"), tmp_path / "notes.png"
    text.write_text("no picture")
    for pictures, problem in (
        ([], "pictures: "),
        ([grey(tmp_path / "grey.png")], "pictures: "),
        ([text], "can't be read as a picture"),
        ([many(tmp_path / "folder", 1000)], "pictures: got 1000, of at most 200; choose the best of them"),
    ):
        assert problem in refused(tmp_path, asked(), {"pictures": pictures, "photos": [well]})


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"recipe": "lore"}, "recipe: got 'lore'; choose lora, "),
        ({"name": "../up"}, "'../up'"),
        ({"name": ""}, "name: an adapter needs --name"),
        ({"uses": {}}, "checkpoint: got none, and lora needs one"),
        ({"uses": {"checkpoint": "/nowhere"}}, "checkpoint: /nowhere doesn't exist"),
        ({"contexts": ("a house", "a boat")}, "contexts: got 2 for 1 pictures"),
    ],
)
def test_a_request_that_is_none(more: dict[str, Any], problem: str, tmp_path: Path, bundle: Path) -> None:
    request = replace(lora(tmp_path, bundle), **more)
    assert problem in refused(tmp_path, request, {"pictures": [picture(tmp_path / "one.png")]})


def test_a_bundle_that_isnt_there_yet_or_vanished_since(tmp_path: Path, bundle: Path) -> None:
    one = {"pictures": [picture(tmp_path / "one.png")]}
    assert "bundle: " in refused(tmp_path, lora(tmp_path, tmp_path / "nowhere"), one)
    job = submit(Folder(tmp_path / "jobs"), lora(tmp_path, bundle), one)
    shutil.rmtree(bundle)
    status = done(job)
    assert (status.state, status.error[:8]) == ("failed", "bundle: ")


def test_one_name_has_one_job(tmp_path: Path, bundle: Path) -> None:
    folder, one = Folder(tmp_path / "jobs"), {"pictures": [picture(tmp_path / "one.png")]}
    first = submit(folder, lora(tmp_path, bundle), one)
    with pytest.raises(JobError, match=f"name: 'glass' is being fitted by job {first.id}; choose another name"):
        submit(folder, lora(tmp_path, bundle), one)
    submit(folder, lora(tmp_path, bundle, registry=str(tmp_path / "another")), one)
    folder.cancel(first)
    submit(folder, lora(tmp_path, bundle), one)


def picking(home: Path, samples: object) -> Job:
    """A job that waits for picks of its first round."""
    job = put(home)
    job.round(1).mkdir(parents=True)
    (job.round(1) / "samples.json").write_text(json.dumps(samples))
    job.tell("picking", Status("picking"))
    return job


def test_picks_are_numbers_of_samples(tmp_path: Path) -> None:
    job = picking(tmp_path, [{"file": f"{i}.png", "context": "a boat"} for i in range(3)])
    for wrong, got in (([3], "3"), ([-1, 1], "-1"), ([], "none")):
        with pytest.raises(JobError, match=f"picks: got {got}; give numbers of samples, 0 to 2"):
            job.pick(wrong)
    assert job.picks(1) is None
    job.pick([2, 0, 2])
    assert job.picks(1) == [2, 0]


def test_picks_of_what_waits_for_none_or_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="is queued, and waits for no picks"):
        put(tmp_path).pick([0])
    with pytest.raises(JobError, match="samples.json of round 1 is damaged; delete it"):
        picking(tmp_path, {"file": 1}).pick([0])

"""deploy/container/Containerfile: what it copies exists and makes a wheel, what it runs exists, versions agree."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path

import pytest

from impasto_client.commit import RECORD
from impasto_server.ops import tritonserver
from tests.helpers.manifests import rendered, the
from tests.helpers.pages import ROOT
from tests.unit.test_locks import LOCKS, PROJECT, locked

FILE = ROOT / "deploy/container/Containerfile"
LINES = [line for line in FILE.read_text().replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
STAGES = ("cpu-build", "cpu", "gpu-build", "gpu")


def stage(name: str) -> list[tuple[str, str]]:
    """Its instructions with what they say."""
    heads = [place for place, line in enumerate(LINES) if line.startswith("FROM ")]
    (begin,) = (place for place in heads if LINES[place].endswith(f" AS {name}"))
    end = min((place for place in heads if place > begin), default=len(LINES))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in LINES[begin:end])]


def said(name: str, instruction: str) -> list[str]:
    return [rest for word, rest in stage(name) if word == instruction]


def copied(name: str) -> list[str]:
    """Paths of the repository that a stage copies."""
    return [path for rest in said(name, "COPY") if not rest.startswith("--from") for path in rest.split()[:-1]]


@pytest.mark.parametrize("name", ["cpu-build", "gpu-build"])
def test_what_it_copies_exists_and_reaches_the_build(name: str) -> None:
    ignored = (FILE.parent / f"{FILE.name}.dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    for path in copied(name):
        assert (ROOT / path).exists()
        assert path in let_in
    assert "*" in ignored
    assert let_in == {*copied("cpu-build"), *copied("gpu-build")}


@pytest.mark.parametrize(("name", "lock"), [("cpu-build", "server"), ("gpu-build", "gpu")])
def test_wheels_are_locked_and_have_what_a_replica_needs(name: str, lock: str) -> None:
    (install,) = (run for run in said(name, "RUN") if "--requirement" in run)
    for option in ("--no-deps", "--require-hashes", "--only-binary :all:", f"--requirement requirements/{lock}.txt"):
        assert option in install
    assert {"server", "gateway", "store"} <= {*LOCKS[lock][0]}
    names = {one.name for one in locked(lock)}
    assert {"obstore", "uvicorn", "hatchling", "editables"} <= names
    assert not {one for one in names if one.startswith(("torch", "diffusers", "transformers"))}


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_images_run_impasto_and_not_as_root(name: str) -> None:
    assert said(name, "ENTRYPOINT") == ['["impasto"]']
    assert "impasto" in PROJECT["project"]["scripts"]
    (user,) = said(name, "USER")
    rights = the(rendered(name), "Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert user == f"{rights['runAsUser']}:{rights['runAsGroup']}"
    assert f"--from={name}-build /opt/impasto /opt/impasto" in said(name, "COPY")
    (path,) = (one for one in said(name, "ENV") if one.startswith("PATH="))
    assert path.startswith("PATH=/opt/impasto/bin:"), "Triton's Python backend takes the first python on PATH"


def test_ports_are_impastos() -> None:
    assert said("gpu", "EXPOSE") == ["8001 8002 8080"]
    assert said("cpu", "EXPOSE") == ["8080"], "the Triton that it brings may listen on loopback alone"


def test_base_images_are_pinned_and_new_enough() -> None:
    arguments = dict(line.removeprefix("ARG ").split("=", 1) for line in LINES if re.match(r"ARG \w+_IMAGE=", line))
    python = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-\w+", arguments["PYTHON_IMAGE"])
    assert python is not None
    assert f">={python[1]}" in PROJECT["project"]["requires-python"]
    triton = re.fullmatch(r".*/tritonserver:(\d+)\.(\d+)-py3", arguments["TRITON_IMAGE"])
    assert triton is not None
    newest = max(tuple(map(int, image.split("."))) for _, image, _ in tritonserver.CURES)
    assert (int(triton[1]), int(triton[2])) >= newest


def test_the_commit_is_recorded_where_the_client_looks() -> None:
    for name in ("cpu-build", "gpu-build"):
        (run,) = (run for run in said(name, "RUN") if RECORD in run)
        assert f"> clients/impasto_client/{RECORD}" in run
        assert "--invalidation-mode unchecked-hash" in run, "bytecode with times in it would differ at each build"
        assert "SOURCE_DATE_EPOCH" in said(name, "ARG")


def test_its_files_make_the_same_wheel_each_time(tmp_path: Path) -> None:
    wheels = [built(tmp_path / name) for name in ("one", "other")]
    assert len({sha256(wheel.read_bytes()).hexdigest() for wheel in wheels}) == 1
    with zipfile.ZipFile(wheels[0]) as opened:
        names = {*opened.namelist()}
    assert {"impasto_gateway/app.py", "impasto_server/pipeline.py", f"impasto_client/{RECORD}"} <= names
    assert "impasto_server/model_repository/stylize/config.pbtxt" in names


def built(folder: Path) -> Path:
    """A wheel of nothing but what the image's build copies."""
    source = folder / "src"
    for path in copied("cpu-build"):
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, source / path, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, source / path)
    (source / "clients/impasto_client" / RECORD).write_text("0123456\n")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    environment = {"PATH": "/usr/bin:/bin", "SOURCE_DATE_EPOCH": "1764500000"}
    subprocess.run(build, cwd=source, env=environment, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_every_instruction_is_one() -> None:
    known = {"FROM", "ARG", "ENV", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}
    assert {word for name in STAGES for word, _ in stage(name)} <= known
    assert all(shlex.split(run) for name in STAGES for run in said(name, "RUN"))
    assert not [line for line in LINES if fnmatch(line, "*:latest*")]

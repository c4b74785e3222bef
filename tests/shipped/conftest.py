"""What a release is made of: a wheel, a source distribution, and the wheel in an environment of its own.

`make check` runs these tests, `make test` doesn't.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
Run = Callable[..., str]


@dataclass(frozen=True)
class Built:
    """Both files, as they would be uploaded."""

    wheel: Path
    sdist: Path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder, "wheel", "sdist")
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist)


def build(root: Path, folder: Path, *targets: str) -> None:
    """With the locked build backend, which is installed: nothing is fetched."""
    words = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run([*words, *(word for target in targets for word in ("-t", target))], cwd=root, check=True)


@pytest.fixture(scope="session")
def run(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a program of an environment that has the wheel, in an empty folder; what it prints.

    Dependencies are those of the tests' environment, so that nothing is fetched. A .pth file names its folder and no
    more: the .pth files in there, by which the checkout is installed, aren't read. What the wheel lacks is missing.
    """
    folder = tmp_path_factory.mktemp("empty")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    programs, home = folder / "venv" / "bin", folder / "home"
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(programs / "python"), "install"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(built.wheel)], check=True)
    theirs = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "dependencies.pth").write_text("\n".join(theirs))  # pip would take the checkout's for installed
    home.mkdir()
    mine = {"PATH": f"{programs}:{os.environ['PATH']}"}  # as it is when the environment is activated
    mine |= {name: value for name, value in os.environ.items() if not name.startswith(("IMPASTO_", "PATH", "PYTHON"))}

    def run(program: str, *words: str) -> str:
        done = subprocess.run([programs / program, *words], cwd=home, env=mine, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run

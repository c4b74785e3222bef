"""The wheel holds what is no Python: graph skeletons, the model repository, the licence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a freshly built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with ZipFile(wheel) as archive:
        return set(archive.namelist())


def files(folder: str, pattern: str) -> list[str]:
    """Paths under `folder` of the repository, relative to it."""
    found = [str(path.relative_to(ROOT / folder)) for path in (ROOT / folder).rglob(pattern) if path.is_file()]
    assert found, f"{folder} has no {pattern}"
    return found


def test_graph_skeletons(held: set[str]) -> None:
    for pattern in ("*.onnx", "*.json"):
        assert {f"impasto_export/graphs/{name}" for name in files("export/impasto_export/graphs", pattern)} <= held


def test_the_vocabulary_and_its_licence(held: set[str]) -> None:
    names = files("export/impasto_export/checkpoints/vocabulary", "*")
    assert {f"impasto_export/checkpoints/vocabulary/{name}" for name in names} <= held
    assert "clip_merges.txt.gz" in names


def test_the_model_repository(held: set[str]) -> None:
    for pattern in ("config.pbtxt", "model.py"):
        assert {f"impasto_server/model_repository/{name}" for name in files("model_repository", pattern)} <= held


def test_types_and_licence(held: set[str]) -> None:
    assert {f"impasto_{name}/py.typed" for name in ("client", "export", "server")} <= held
    assert any(name.endswith("/LICENSE") for name in held)
    assert not any("__pycache__" in name or name.startswith(("studio", "tests")) for name in held)

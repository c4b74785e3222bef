"""The examples of docs/examples, as a reader runs them, against real servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from docs.examples.guidance import CELL, GAMMAS, GAP, LABEL, STYLES
from numpy.typing import NDArray
from PIL import Image

from impasto_client import Client, Compose, StyleContent
from impasto_server.ops.serve import Server
from tests.helpers import toy

from .conftest import IMPASTO, ROOT


def example(name: str, *words: str, url: str = "") -> str:
    """What it prints. `impasto` is that of this environment, as it is for who activates it."""
    env = {**os.environ, "IMPASTO_URL": url, "PATH": f"{Path(IMPASTO).parent}:{os.environ['PATH']}"}
    command = [sys.executable, str(ROOT / "docs" / "examples" / name), *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def client(toy_server: Server) -> Iterator[Client]:
    with Client(toy_server.grpc_url) as client:
        yield client


def test_a_backend(toy_server: Server, tmp_path: Path) -> None:
    words = ["a red boat", "a blue fish", "--adapter", "neon", "--out", str(tmp_path)]
    said = example("backend.py", *words, url=toy_server.grpc_url)
    assert 'pictures_total{outcome="painted"} 2\n' in said
    assert [pixels(tmp_path / f"{number}.png").shape for number in range(2)] == [(64, 64, 3)] * 2


def test_a_backend_whose_requests_are_wrong(toy_server: Server, tmp_path: Path) -> None:
    words = ["a red boat", "--adapter", "oil", "--out", str(tmp_path)]
    said = example("backend.py", *words, url=toy_server.grpc_url)
    assert "a red boat: ADAPTER_NAMES: no adapter 'oil'" in said
    assert 'pictures_total{outcome="AdapterNotFound"} 1\n' in said


def test_a_load_test(toy_server: Server) -> None:
    styles = ["--adapter", "neon", "--adapter", "stained-glass"]
    words = ["--rate", "40", "--requests", "20", "--steps", "2", *styles]
    said = json.loads(example("loadtest.py", *words, url=toy_server.grpc_url))
    assert said["outcomes"] == {"painted": 20}
    assert 0 < said["p50_s"] <= said["p95_s"] <= said["p99_s"]


def test_a_tour_of_style_and_content(toy_server: Server, client: Client, tmp_path: Path) -> None:
    words = ["dual", "--style", "sks03", "--steps", "3", "--out", str(tmp_path / "dual.png")]
    example("guidance.py", *words, url=toy_server.grpc_url)
    drawn = pixels(tmp_path / "dual.png")
    own = client.generate("a house", style="sks03", guidance=StyleContent(style=2.0, content=1.0), steps=3, seed=7)
    assert np.abs(cell(drawn, 3, 1) - shown(own.image)).max() <= 2  # another batch rounds otherwise
    assert len({cell(drawn, down, along).tobytes() for down in range(4) for along in range(4)}) == 16
    assert len(STYLES) == 4


def test_a_tour_from_a_style_to_a_content(
    toy_server: Server, toy_registry: Path, client: Client, tmp_path: Path
) -> None:
    toy.register(toy_registry, "glass", toy.adapter_bytes(7, header={"prompt": "{context} in glass"}))
    words = ["compose", "--style", "glass", "--content", "neon", "--steps", "3", "--out", str(tmp_path / "sheet.png")]
    example("guidance.py", *words, url=toy_server.grpc_url)
    drawn = pixels(tmp_path / "sheet.png")
    asked = Compose(gamma=GAMMAS[3])
    own = client.generate("a house", style="glass", content="neon", guidance=asked, steps=3, seed=7)
    assert np.abs(cell(drawn, 0, 3) - shown(own.image)).max() <= 2
    assert len({cell(drawn, 0, along).tobytes() for along in range(len(GAMMAS))}) == len(GAMMAS)


def pixels(file: Path) -> NDArray[np.int64]:
    with Image.open(file) as picture:
        return np.asarray(picture, np.int64)


def cell(sheet: NDArray[np.int64], down: int, along: int) -> NDArray[np.int64]:
    """A picture of a tour."""
    x, y = GAP + along * (CELL + GAP), GAP + down * (LABEL + CELL + GAP) + LABEL
    return sheet[y : y + CELL, x : x + CELL]


def shown(picture: Image.Image) -> NDArray[np.int64]:
    """As a tour shows it."""
    return np.asarray(picture.resize((CELL, CELL)), np.int64)

"""The curl lines of docs/http.md, as a reader types them, against a real server."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.conftest import IMPASTO, impasto_serve
from tests.helpers import toy, toy_stylizer
from tests.helpers.pages import ROOT, page

HTTP = page("docs/http.md")
LINES = {block.heading: [one.text for one in HTTP.blocks if one.heading == block.heading and one.language == "bash"]
         for block in HTTP.blocks}  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """Somebody in the repository's folder, beside a server of prompts and of photos with styles of the demo's names."""

    folder: Path
    address: str

    def types(self, heading: str) -> str:
        """All lines of bash below a heading; what they print."""
        script = "\n".join(LINES[heading]).replace("localhost:8080", self.address)
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=self.folder, capture_output=True, text=True, timeout=120
        )
        assert ran.returncode == 0, (ran.stdout, ran.stderr)
        return ran.stdout

    def size(self, name: str) -> tuple[int, int]:
        with Image.open(self.folder / name) as picture:
            picture.load()
            return picture.size


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, toy_bundle: Path) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("reader")
    (folder / "studio").symlink_to(ROOT / "studio")
    photos = toy_stylizer.write_bundle(folder / "photos")
    registry = folder / "registry"
    for at, name in enumerate(("stained-glass", "mosaic")):
        toy.register(registry, name, toy.adapter_bytes(at + 1, rank=3))
    for at, name in enumerate(("wave", "ink")):
        toy.register(registry, name, toy_stylizer.style_bytes(toy_stylizer.style(at + 1)))
    bundles = ["--bundle", f"words={toy_bundle}", "--bundle", f"photos={photos}", "--registry", str(registry)]
    engine = ["--engine", "onnxruntime", "--threads", "1", "--port", "0", "--http", "0", "--quiet"]
    with impasto_serve([IMPASTO, "serve", *bundles, *engine]) as server:
        found = re.search(r"HTTP on http://(\S+)", server.ready)
        assert found, server.ready
        yield Reader(folder, found[1])


def test_a_picture(reader: Reader) -> None:
    said = json.loads(reader.types("Ask for a picture"))
    assert (said["seed"], said["size"]) == (7, "64x64")
    assert all("4; not read" in one for one in said["warnings"])  # the toy reads no long prompts
    assert reader.size("boat.png") == (64, 64)


def test_styles(reader: Reader) -> None:
    said = reader.types("Styles").splitlines()
    assert said[0] == 'stained-glass lora ["words"]'
    assert {"words", "photos", "words:stained-glass", "photos:wave"} <= {*said}
    one, another = (Image.open(reader.folder / name).tobytes() for name in ("one.png", "another.png"))
    assert one == another


def test_events(reader: Reader) -> None:
    assert reader.types("Watch it being painted").split("\n") == [
        *["event: image_generation.partial_image"] * 3,
        "event: image_generation.completed",
        "",
    ]


def test_pictures_changed(reader: Reader) -> None:
    reader.types("Ask for a picture")
    assert json.loads(reader.types("Change a picture"))["ours"] is False  # nobody signs here
    assert reader.size("snow.png") == (64, 64)
    for painting in ("painting.png", "mixed.png"):
        assert reader.size(painting) == reader.size("photo.jpg")


def test_a_refusal(reader: Reader) -> None:
    status, said = reader.types("When it says no").splitlines()
    assert status == "400"
    assert said.startswith("stepps: ")
    assert "did you mean 'steps'?" in said

"""The README's Python runs, on the toy backbones. What else it says is looked up in docs/test_pages.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import impasto_client
from impasto_client import Client, LocalTransport
from tests.helpers import toy, toy_masked, toy_stylizer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
PHOTOS, GREET, STREAM, WORDS, MASKED, LOCAL = BLOCKS


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reader's folder after `make demo`: a bundle, a registry; and what the reader adds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMPASTO_REGISTRY", ".impasto/registry")
    monkeypatch.setenv("IMPASTO_ENGINE", "onnxruntime")
    toy.write_bundle(Path(".impasto/bundle"))
    toy_masked.write_bundle(Path(".impasto/muse"))
    registry = Path(".impasto/registry")
    toy.register(registry, "stained-glass", toy.adapter_bytes(1))
    toy.register(registry, "mosaic", toy.adapter_bytes(2))
    toy.register(registry, "my-toy", toy.embedding_bytes(3, stages=1))
    toy.register(registry, "stained-glass-ti", toy.embedding_bytes(4))
    toy.register(registry, "crosshatch-ti", toy.embedding_bytes(5))
    template = {"prompt": toy_masked.TEMPLATE}
    toy.register(registry, "glass-drop", toy_masked.bottleneck_bytes(6, rank=4, header=template))
    toy.register(registry, "rocket-drop", toy_masked.bottleneck_bytes(7, rank=3))
    toy_stylizer.write_bundle(Path(".impasto/stylizer"))
    for seed, name in enumerate(("wave", "ink")):
        toy.register(registry, name, toy_stylizer.style_bytes(toy_stylizer.style(seed)))
    for name in "photo.jpg painting.jpg sky.png ground.png".split():
        Image.effect_noise((64, 64), 90).convert("RGB").save(name)
    return tmp_path


@pytest.fixture
def diffusion() -> Iterator[Client]:
    with Client(transport=LocalTransport(Path(".impasto/bundle"))) as client:
        yield client


def test_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(transport=LocalTransport(Path(".impasto/stylizer"))) as client, Image.open("photo.jpg") as photo:
        monkeypatch.setattr(impasto_client, "Client", partial(lambda url: client))
        names: dict[str, Any] = {"frames": [photo] * 3}
        exec(PHOTOS, names)
    with Image.open("painting.png") as picture:
        assert picture.size == (64, 64)
    assert names["painted"].size == (64, 64)


def test_a_picture_and_its_stream(diffusion: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(impasto_client, "Client", partial(lambda url: diffusion))
    exec(GREET + STREAM, {})
    with Image.open("boat.png") as picture:
        assert picture.size == (64, 64)


def test_styles_as_words(diffusion: Client) -> None:
    exec(WORDS, {"client": diffusion, "Path": Path})


def test_masked_tokens_and_scores(scorer_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPASTO_SCORER", str(scorer_bundle))
    names: dict[str, Any] = {"Path": Path}
    with Client(transport=LocalTransport(Path(".impasto/muse"))) as client:
        exec(MASKED, names | {"client": client})


def test_the_pipeline_itself() -> None:
    names: dict[str, Any] = {}
    exec(LOCAL, names)
    assert names["result"].image
    assert names["again"].image

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import toy
from impasto_server.bundle import Bundle, Manifest
from impasto_server.pipeline import Pipeline
from impasto_server.settings import EngineName, Settings


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture(scope="session")
def manifest(bundle: Path) -> Manifest:
    return Bundle.open(bundle).manifest


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """Three LoRAs, `deep` reaches the text encoder too and has a rank beyond the bank's; three embeddings."""
    folder = tmp_path / "registry"
    toy.register(folder, "stained-glass", toy.adapter_bytes(1))
    toy.register(folder, "neon", toy.adapter_bytes(2, rank=3))
    toy.register(folder, "deep", toy.adapter_bytes(3, rank=20, text_encoder=True))
    toy.register(folder, "sks03", toy.embedding_bytes(4))
    toy.register(folder, "sks05", toy.embedding_bytes(5, places=2))
    toy.register(folder, "my-toy", toy.embedding_bytes(6, stages=1))
    return folder


Open = Callable[..., Pipeline]


@pytest.fixture
def open_pipeline(bundle: Path, registry: Path) -> Iterator[Open]:
    opened: list[Pipeline] = []

    def open_(engine: EngineName = "onnxruntime", **settings: int) -> Pipeline:
        opened.append(Pipeline.load(Settings(bundle, registry, engine, "f32", threads=1, **settings)))
        return opened[-1]

    yield open_
    for pipeline in opened:
        pipeline.close()

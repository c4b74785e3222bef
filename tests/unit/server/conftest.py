from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import toy
import toy_masked
from impasto_server.bundle import Bundle, Manifest
from impasto_server.pipeline import Pipeline
from impasto_server.settings import EngineName, Settings

Open = Callable[..., Pipeline]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture(scope="session")
def manifest(bundle: Path) -> Manifest:
    return Bundle.open(bundle).manifest


@pytest.fixture(scope="session")
def masked_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_masked.write_bundle(tmp_path_factory.mktemp("toy") / "masked")


@pytest.fixture(scope="session")
def masked_manifest(masked_bundle: Path) -> Manifest:
    return Bundle.open(masked_bundle).manifest


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


@pytest.fixture
def masked_registry(tmp_path: Path) -> Path:
    """Bottleneck adapters of either gelu, one with its template; two LoRAs, an embedding, and a stranger."""
    folder = tmp_path / "masked-registry"
    template = {"prompt": toy_masked.TEMPLATE}
    toy.register(folder, "stained-glass", toy_masked.bottleneck_bytes(1, rank=4, header=template))
    toy.register(folder, "neon", toy_masked.bottleneck_bytes(2, rank=3, gelu="tanh"))
    toy.register(folder, "crayon", toy_masked.lora_bytes(3))
    toy.register(folder, "my-toy", toy_masked.lora_bytes(4, rank=20, text_encoder=True))
    toy.register(folder, "sks03", toy.embedding_bytes(4))
    toy.register(folder, "diffuse", toy.adapter_bytes(5))
    return folder


@pytest.fixture
def open_pipeline(bundle: Path, registry: Path) -> Iterator[Open]:
    yield from _opening(bundle, registry)


@pytest.fixture
def open_masked(masked_bundle: Path, masked_registry: Path) -> Iterator[Open]:
    """As `open_pipeline`, on the masked backbone."""
    yield from _opening(masked_bundle, masked_registry)


def _opening(bundle: Path, registry: Path) -> Iterator[Open]:
    opened: list[Pipeline] = []

    def open_(engine: EngineName = "onnxruntime", **settings: Any) -> Pipeline:
        opened.append(Pipeline.load(Settings(bundle, registry, engine, "f32", threads=1, **settings)))
        return opened[-1]

    yield open_
    for pipeline in opened:
        pipeline.close()

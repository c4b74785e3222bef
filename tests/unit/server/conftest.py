from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from threading import current_thread
from time import sleep
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from impasto_server.backbone import Backbone, Row
from impasto_server.bundle import Manifest
from impasto_server.families import open_bundle
from impasto_server.pipeline import Pipeline
from impasto_server.settings import EngineName, Settings
from tests.helpers import toy, toy_masked
from tests.helpers.families import Handed

Open = Callable[..., Pipeline]
Context = Callable[[], AbstractContextManager[None]]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture(scope="session")
def manifest(bundle: Path) -> Manifest:
    return open_bundle(bundle).manifest


@pytest.fixture(scope="session")
def masked_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_masked.write_bundle(tmp_path_factory.mktemp("toy") / "masked")


@pytest.fixture(scope="session")
def two_stage_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `masked_bundle`, with a second stage."""
    return toy_masked.write_bundle(tmp_path_factory.mktemp("toy") / "two-stage", stages=2)


@pytest.fixture(scope="session")
def masked_manifest(masked_bundle: Path) -> Manifest:
    return open_bundle(masked_bundle).manifest


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
def paired_registry(masked_registry: Path) -> Path:
    """As `masked_registry`, with adapters of both stages: `pair` and `other-pair` as StyleDrop's, `pair-lora`."""
    both, template = ("transformer", "upscaler"), {"prompt": toy_masked.TEMPLATE}
    toy.register(masked_registry, "pair", toy_masked.bottleneck_bytes(11, rank=4, stages=both, header=template))
    toy.register(masked_registry, "other-pair", toy_masked.bottleneck_bytes(12, rank=3, gelu="tanh", stages=both))
    toy.register(masked_registry, "pair-lora", toy_masked.lora_bytes(13, text_encoder=True, stages=both))
    return masked_registry


@pytest.fixture
def open_pipeline(bundle: Path, registry: Path) -> Iterator[Open]:
    yield from _opening(bundle, registry)


@pytest.fixture
def open_masked(masked_bundle: Path, masked_registry: Path) -> Iterator[Open]:
    """As `open_pipeline`, on the masked backbone."""
    yield from _opening(masked_bundle, masked_registry)


@pytest.fixture
def open_two_stages(two_stage_bundle: Path, paired_registry: Path) -> Iterator[Open]:
    """As `open_masked`, with a second stage."""
    yield from _opening(two_stage_bundle, paired_registry)


def _opening(bundle: Path, registry: Path) -> Iterator[Open]:
    opened: list[Pipeline] = []

    def open_(engine: EngineName = "onnxruntime", **settings: Any) -> Pipeline:
        wanted = Settings(bundle, registry, engine, "f32", threads=1, **settings)
        opened.append(Pipeline.load(wanted, Handed.of))
        return opened[-1]

    yield open_
    for pipeline in opened:
        pipeline.close()


def on_lookout() -> bool:
    """Whether it's the lookout's thread that calls."""
    return current_thread().name == "lookout"


@pytest.fixture
def every_look_takes_a_second(monkeypatch: pytest.MonkeyPatch) -> Context:
    """Within it, a job's clock goes on by a second whenever it is looked at, on a machine of any speed."""

    @contextmanager
    def slow_clock() -> Iterator[None]:
        with monkeypatch.context() as patch:
            seconds = count()
            patch.setattr("impasto_server.job.perf_counter", lambda: float(next(seconds)))
            yield

    return slow_clock


@pytest.fixture
def slow_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 steps take a second at least: time to leave in their midst."""
    run = Backbone.run

    def run_slowly(self: Backbone, rows: Sequence[Row]) -> NDArray[np.float32]:
        sleep(0.005)
        return run(self, rows)

    monkeypatch.setattr(Backbone, "run", run_slowly)

"""A reader's folder, as `make demo` leaves it, of toy bundles."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.helpers import toy, toy_masked, toy_stylizer


@pytest.fixture
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

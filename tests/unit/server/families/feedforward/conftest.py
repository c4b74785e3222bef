"""Pipelines on the toy of a stylizer, and photos for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from impasto_server.pipeline import Pipeline
from impasto_server.settings import EngineName, Settings
from tests.helpers import toy, toy_stylizer

OpenStylizer = Callable[..., Pipeline]
Pixels = NDArray[np.uint8]


def photo(seed: int = 0, height: int = 64, width: int = 80) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def registered(folder: Path) -> Path:
    """A registry: three styles of the toy, and one of another network."""
    for seed, name in enumerate(("ink", "mosaic", "pastel"), 1):
        toy.register(folder, name, toy_stylizer.style_bytes(toy_stylizer.style(seed)))
    toy.register(folder, "foreign", toy_stylizer.style_bytes(toy_stylizer.style(9), "other-net", "9" * 64))
    return folder


@pytest.fixture
def styles(tmp_path: Path) -> Path:
    return registered(tmp_path / "styles")


@pytest.fixture
def open_stylizer(tmp_path: Path, styles: Path) -> Iterator[OpenStylizer]:
    """A pipeline in f32; keyword arguments are the bundle's, but for `engine` and settings by their names."""
    opened: list[Pipeline] = []

    def open_(engine: EngineName = "onnxruntime", max_lanes: int = 4, threads: int = 1, **bundle: Any) -> Pipeline:
        folder = toy_stylizer.write_bundle(tmp_path / f"bundle{len(opened)}", **bundle)
        opened.append(Pipeline.load(Settings(folder, styles, engine, "f32", threads=threads, max_lanes=max_lanes)))
        return opened[-1]

    yield open_
    for pipeline in opened:
        pipeline.close()


@pytest.fixture
def stylizer(open_stylizer: OpenStylizer) -> Pipeline:
    return open_stylizer()

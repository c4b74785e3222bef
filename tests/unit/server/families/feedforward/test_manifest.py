"""What a bundle of a stylizer must have, and what it takes of memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from impasto_server.adapters.layout import Layout
from impasto_server.errors import SetupError
from impasto_server.families import open_bundle
from impasto_server.families.feedforward.manifest import FeedforwardManifest
from impasto_server.pipeline import Pipeline
from impasto_server.settings import Settings
from impasto_server.steps import BASE
from tests.helpers import toy_stylizer as toy

from .conftest import OpenStylizer

# Of one conv, whose norm stands at 40 of a vector.
CONV = {
    "name": "conv",
    "file": "piece.onnx",
    "channels": 3,
    "stride": 1,
    "doubles": False,
    "lead": -1,
    "extra": 3,
    "slack": -1,
    "padding": "reflect",
    "norm": {"epsilon": 1e-5, "at": 40},
}
PIECES = {"pad": 0, "blocks": [CONV], "end": "end.onnx", "vector": None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return toy.write_bundle(tmp_path / "bundle")


def changed(folder: Path, **facts: Any) -> Path:
    """Its manifest with these facts; None takes one out."""
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_text()), **facts}
    path.write_text(json.dumps({name: value for name, value in manifest.items() if value is not None}))
    return folder


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"neutral": None}, "weakened is neutral, but there is no neutral vector"),
        ({"graphs": {}}, "graphs lacks transform"),
        ({"weakened": "slowly"}, "weakened: Input should be 'neutral', 'content' or 'pixels'"),
        ({"border": -1}, "border: Input should be greater than or equal to 0"),
        ({"pieces": PIECES}, "pieces take vectors of 46 numbers, but transform of 14"),
    ],
)
def test_a_manifest_that_lacks_what_styles_need_is_refused(facts: dict[str, Any], said: str, folder: Path) -> None:
    with pytest.raises(SetupError, match=said):
        open_bundle(changed(folder, **facts))


def test_what_fades_to_the_photos_own_style_needs_a_predictor(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="weakened is content, but graphs lacks predictor"):
        open_bundle(toy.write_bundle(tmp_path / "bundle", weakened="content", predictor=False))


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"neutral": np.ones(3, np.float32)}, r"holds \[3\], but its net takes 14 finite numbers"),
        ({"neutral": np.full(14, np.nan, np.float32)}, "finite numbers"),
        ({"other": np.ones(14, np.float32)}, "can't be read"),
        ({"neutral": np.ones(1 << 20, np.float32)}, "can't be read"),
    ],
    ids=["too few", "nan", "none", "large"],
)
def test_a_neutral_vector_that_is_none_is_refused(tensors: dict[str, Any], said: str, folder: Path) -> None:
    save_file(tensors, folder / "neutral.safetensors")
    with pytest.raises(SetupError, match=f"neutral.safetensors {said}|neutral.safetensors.*{said}"):
        Pipeline.load(Settings(folder, folder, "onnxruntime", "f32", threads=1))


def test_vectors_take_no_pages_of_the_bank(folder: Path) -> None:
    manifest = open_bundle(folder).manifest
    assert isinstance(manifest, FeedforwardManifest)
    assert manifest.vectors == toy.NUMBERS
    layout = Layout.of(manifest, 16, "f32")
    assert (layout.kinds, layout.sites) == ((), {})


def test_few_large_pictures_are_in_a_batch(open_stylizer: OpenStylizer) -> None:
    backbone = open_stylizer().family.backbones[BASE]
    rooms = [backbone.room(np.empty((3, side, side), np.uint8), 16) for side in (64, 256, 512, 1024, 4096)]
    assert rooms == [16, 16, 4, 1, 1]

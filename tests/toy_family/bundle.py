"""Its bundles, its adapters, and a model repository whose models know of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from safetensors.numpy import save

from impasto_server.ops.repository import MODELS, model_repository
from tests.helpers import toy

ROOT = Path(__file__).parents[2]
ARCHITECTURE = "e" * 64

# Every pixel is moved by the shades of its adapters; without one it stays as it is.
GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
tint (float[lanes,3,H,W] image, int64[lanes,shade_K] shade_rows, float[lanes,shade_K] shade_weights,
      float[R,3] "colours.shade")
  => (float[lanes,3,H,W] tinted)
<int64[1] one = {1}, int64[2] pixels = {2,3}, int64[1] last = {2}>
{
  shades = Gather("colours.shade", shade_rows)
  weights = Unsqueeze(shade_weights, last)
  weighed = Mul(shades, weights)
  shade = ReduceSum<keepdims=0>(weighed, one)
  shade4 = Unsqueeze(shade, pixels)
  tinted = Add(image, shade4)
}
"""
# Two entries, before any module of the model's asks for them: there is nothing else to register.
MODEL = """import sys

sys.path.append({root!r})

from impasto_server.adapters.form import FORMS
from impasto_server.families import FAMILIES
from tests.toy_family.tint import SHADE, TINT

FAMILIES["tint"], FORMS["shade"] = TINT, SHADE

"""


def write_bundle(folder: Path, form: str = "shade") -> Path:
    """`form` is what its form of adapter is called."""
    folder.mkdir(parents=True)
    onnx.save(onnx.parser.parse_model(GRAPH.replace("shade", form)), folder / "tint.onnx")
    graph = {
        "file": "tint.onnx",
        "inputs": [toy.port("image", "lanes", 3, "H", "W"), *toy.adapter_ports(form)],
        "outputs": [toy.port("tinted", "lanes", 3, "H", "W")],
        "sites": [toy.site("colours", 3, form)],
    }
    manifest = {
        "format": 1,
        "family": "tint",
        "name": "tint",
        "architecture": ARCHITECTURE,
        "digest": "f" * 64,
        "image": {"width": 64, "height": 48, "multiple_of": 16, "max_pixels": 128 * 128},
        "graphs": {"tint": graph},
    }
    return toy.write_manifest(folder, manifest)


def adapter_bytes(*shade: float, form: str = "shade") -> bytes:
    """An adapter that adds this to every pixel, RGB in [-1, 1]."""
    header = {"format": 1, "kind": form, "family": "tint", "architecture": ARCHITECTURE}
    return save({f"tint.colours.{form}": np.array(shade, np.float32)}, {"impasto": json.dumps(header)})


def write_repository(folder: Path) -> Path:
    """Ours, with a line more in each model that reads requests or answers them."""
    shutil.copytree(model_repository(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in MODELS:
        model = folder / name / "1" / "model.py"
        model.write_text(MODEL.format(root=str(ROOT)) + model.read_text())
    return folder

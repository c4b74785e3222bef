"""Its bundles, its adapters, and a model repository whose models know of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from impasto_server.ops.repository import model_repository
from tests.helpers import toy

ROOT = Path(__file__).parents[2]
ARCHITECTURE = "e" * 64

# Every pixel's colours turned a little by the adapter; without one they stay as they are.
GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
tint (float[lanes,3,H,W] image, int64[lanes] slot, float[S,3,R] "colours.lora_A", float[S,R,3] "colours.lora_B")
  => (float[lanes,3,H,W] tinted)
<int64[1] one = {1}>
{
  x = Transpose<perm=[0,2,3,1]>(image)
  a = Gather("colours.lora_A", slot)
  b = Gather("colours.lora_B", slot)
  a4 = Unsqueeze(a, one)
  b4 = Unsqueeze(b, one)
  low = MatMul(x, a4)
  update = MatMul(low, b4)
  y = Add(x, update)
  tinted = Transpose<perm=[0,3,1,2]>(y)
}
"""
# Before the family is asked for, by whichever module of the model's: this is the whole of its registration.
MODEL = """import sys

sys.path.append({root!r})

from impasto_server.families import FAMILIES
from tests.toy_family.tint import TINT

FAMILIES["tint"] = TINT

"""


def write_bundle(folder: Path) -> Path:
    toy.write_graph(folder, "tint", GRAPH, {})
    graph = {
        "file": "tint.onnx",
        "inputs": [toy.port("image", "lanes", 3, "H", "W"), toy.port("slot", "lanes", dtype="int64")],
        "outputs": [toy.port("tinted", "lanes", 3, "H", "W")],
        "sites": [toy.site("colours", 3)],
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


def adapter_bytes() -> bytes:
    """Swaps red and blue: x + x @ A @ B with A @ B = P - I."""
    swap = np.eye(3, dtype=np.float32)[::-1].copy()
    header = {"kind": "lora", "family": "tint", "architecture": ARCHITECTURE}
    changed = {
        "tint.colours.A": np.eye(3, dtype=np.float32),
        "tint.colours.B": swap - np.eye(3, dtype=np.float32),
        "tint.colours.scale": np.array(1.0, np.float32),
    }
    return toy.save_adapter(0, 3, {"tint.colours": 3}, header, changed)


def write_repository(folder: Path) -> Path:
    """Ours, with a line more in each model that reads requests or answers them."""
    shutil.copytree(model_repository(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("stylize", "stylize_stream"):
        model = folder / name / "1" / "model.py"
        model.write_text(MODEL.format(root=str(ROOT)) + model.read_text())
    return folder

"""A feed-forward style net of a few dozen numbers, in the bundle format, and the same computation in plain NumPy.

It has a conv of four channels, a halving and a doubling, and a conv of three channels; each conv is normalised over the
picture, with the γ and β of the row's style. The predictor is a Linear of the picture's mean colour.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save, save_file

from tests.helpers import toy

Array = NDArray[np.float32]

ARCHITECTURE = "5" * 64
NUMBERS, SIDE, EPSILON = 2 * (4 + 3), 16, 1e-5
NAME = "toy-stylizer"

TRANSFORM = f"""
<ir_version: 10, opset_import: ["" : 18]>
transform (float[lanes,3,H,W] picture, float[lanes,{NUMBERS}] style) => (float[lanes,3,H,W] painted)
<int64[8] pads = {{0,0,1,1,0,0,1,1}}, float[4] ones4 = {{1.0,1.0,1.0,1.0}}, float[4] zeros4 = {{0.0,0.0,0.0,0.0}},
 float[3] ones3 = {{1.0,1.0,1.0}}, float[3] zeros3 = {{0.0,0.0,0.0}}, float[4] twice = {{1.0,1.0,2.0,2.0}},
 int64[4] parts = {{4,4,3,3}}, int64[2] pixels = {{2,3}}>
{{
  rows = Unsqueeze(style, pixels)
  scale4, shift4, scale3, shift3 = Split<axis=1>(rows, parts)
  padded4 = Pad<mode="reflect">(picture, pads)
  x0 = Conv(padded4, kernel4)
  x1 = InstanceNormalization<epsilon=1e-5>(x0, ones4, zeros4)
  x2 = Mul(x1, scale4)
  x3 = Add(x2, shift4)
  x4 = Relu(x3)
  small = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x4)
  large = Resize<mode="nearest">(small, , twice)
  padded3 = Pad<mode="reflect">(large, pads)
  y0 = Conv(padded3, kernel3)
  y1 = InstanceNormalization<epsilon=1e-5>(y0, ones3, zeros3)
  y2 = Mul(y1, scale3)
  y3 = Add(y2, shift3)
  painted = Sigmoid(y3)
}}
"""
# The same net with a single style, in its weights.
PLAIN = TRANSFORM.replace(f", float[lanes,{NUMBERS}] style", "").replace("Unsqueeze(style", "Unsqueeze(own")
PREDICTOR = f"""
<ir_version: 10, opset_import: ["" : 18]>
predictor (float[n,3,{SIDE},{SIDE}] picture) => (float[n,{NUMBERS}] style)
<int64[2] pixels = {{2,3}}>
{{
  colours = ReduceMean<keepdims=0>(picture, pixels)
  moved = MatMul(colours, weight)
  style = Add(moved, usual)
}}
"""


def style(seed: int) -> Array:
    """A random style: γ near one, β near zero, in the order of the norms."""
    draw = np.random.default_rng(seed)
    parts = [one + 0.5 * draw.standard_normal(size) for size in (4, 3) for one in (1.0, 0.0)]
    found: Array = np.concatenate(parts).astype(np.float32)
    return found


NEUTRAL = style(100)


def weights() -> dict[str, Array]:
    draw = np.random.default_rng(0)
    return {
        "kernel4": draw.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "kernel3": draw.standard_normal((3, 4, 3, 3)).astype(np.float32),
    }


def predictor_weights() -> dict[str, Array]:
    draw = np.random.default_rng(1)
    return {"weight": draw.standard_normal((3, NUMBERS)).astype(np.float32), "usual": NEUTRAL}


def write_bundle(
    folder: Path,
    weakened: str = "neutral",
    predictor: bool = True,
    vectors: bool = True,
    border: int = 0,
    name: str = NAME,
    architecture: str = ARCHITECTURE,
) -> Path:
    """Write the bundle. Without `vectors` it has one style, that of the neutral vector."""
    own = {} if vectors else {"own": NEUTRAL[None]}
    toy.write_graph(folder, "transform", TRANSFORM if vectors else PLAIN, {**weights(), **own})
    style_port = [toy.port("style", "lanes", NUMBERS)] if vectors else []
    graphs: dict[str, object] = {
        "transform": {
            "file": "transform.onnx",
            "inputs": [toy.port("picture", "lanes", 3, "H", "W"), *style_port],
            "outputs": [toy.port("painted", "lanes", 3, "H", "W")],
            "sites": [toy.site("style", NUMBERS, "vector")] if vectors else [],
        }
    }
    if predictor:
        toy.write_graph(folder, "predictor", PREDICTOR, predictor_weights())
        graphs["predictor"] = {
            "file": "predictor.onnx",
            "inputs": [toy.port("picture", "n", 3, SIDE, SIDE)],
            "outputs": [toy.port("style", "n", NUMBERS)],
        }
    neutral = {"neutral": {"file": "neutral.safetensors"}} if weakened == "neutral" else {}
    if neutral:
        save_file({"neutral": NEUTRAL}, folder / "neutral.safetensors")
    manifest = {
        "format": 1,
        "family": "feedforward",
        "name": name,
        "architecture": architecture,
        "digest": "6" * 64,
        "image": {"width": 64, "height": 64, "multiple_of": 2, "max_pixels": 8192 * 8192},
        "weakened": weakened,
        "border": border,
        "trunk": {"layout": "toy"},
        "graphs": graphs,
        **neutral,
    }
    return toy.write_manifest(folder, manifest)


def style_bytes(vector: Array, network: str = NAME, architecture: str = ARCHITECTURE) -> bytes:
    """A style as an adapter's file."""
    header = {"format": 1, "kind": "vector", "family": "feedforward", "architecture": architecture, "network": network}
    return save({"transform.style.vector": vector}, {"impasto": json.dumps(header)})


def painted(photo: NDArray[np.uint8], vector: Array) -> NDArray[np.float64]:
    """The net's painting of an RGB photo [H, W, 3] with even sides: [H, W, 3] in 0..1."""
    kernels = weights()
    scale4, shift4, scale3, shift3 = np.split(vector.astype(np.float64), [4, 8, 11])
    x = _normed(_convolved(photo / 255, kernels["kernel4"]), scale4, shift4)
    x = np.maximum(x, 0)
    small = (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4
    large = small.repeat(2, 0).repeat(2, 1)
    y = _normed(_convolved(large, kernels["kernel3"]), scale3, shift3)
    found: NDArray[np.float64] = 1 / (1 + np.exp(-y))
    return found


def predicted(colour: NDArray[np.float64]) -> Array:
    """The predictor's vector for a picture of a single colour, RGB in 0..1."""
    own = predictor_weights()
    return (colour @ own["weight"] + own["usual"]).astype(np.float32)


def _convolved(x: NDArray[np.float64], kernel: Array) -> NDArray[np.float64]:
    height, width, _ = x.shape
    around = np.pad(x, ((1, 1), (1, 1), (0, 0)), "reflect")
    found = np.zeros((height, width, len(kernel)))
    for i, j in np.ndindex(3, 3):
        found += around[i : i + height, j : j + width] @ kernel[:, :, i, j].T.astype(np.float64)
    return found


def _normed(x: NDArray[np.float64], scale: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.float64]:
    mean, variance = x.mean((0, 1)), x.var((0, 1))
    found: NDArray[np.float64] = (x - mean) / np.sqrt(variance + EPSILON) * scale + shift
    return found

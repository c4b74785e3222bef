"""Small nets of every kind that can be cut into pieces, and their bundles."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper
from safetensors.numpy import save, save_file

from impasto_export.feedforward import graph, pieces
from impasto_export.feedforward.net import Block, Conv, Input, Net, Norm, Output, Residual
from impasto_export.feedforward.trunk import blocks
from tests.helpers import toy

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]

ARCHITECTURE = "7" * 64
WIDTHS = (4, 6, 8)
STYLED, OWN, FIXED = Norm("instance", 1e-5, True), Norm("instance", 1e-3), Norm()
MEAN = (103.939, 116.779, 123.68)


def trunk(
    norm: Norm = STYLED, padding: Any = "reflect", widths: tuple[int, int, int] = WIDTHS, residuals: int = 2
) -> Net:
    """The trunk of conditional instance norm."""
    return _filled(Net("cin", Input(), 0, blocks(residuals, padding, lambda _: norm), Output("sigmoid"), {}), widths)


def half_fixed() -> Net:
    """A trunk whose contracting convs have norms of fixed statistics, folded into them; the others are styled."""
    made = blocks(1, "reflect", lambda name: FIXED if name.startswith("contract") else STYLED)
    return _filled(Net("arbitrary", Input(), 0, made, Output("sigmoid"), {}), WIDTHS)


def transposed(padding: Any) -> Net:
    """A trunk with transposed convs and zero padding, cropped as torch does or as TensorFlow does."""
    net = trunk(OWN, padding)

    def turned(block: Block) -> Block:
        doubled = isinstance(block, Conv) and block.upsampling == "nearest"
        return replace(block, upsampling="transposed") if doubled else block  # type: ignore[arg-type]

    scale = Output("tanh", 150.0, 127.5, white=255.0)
    return _filled(replace(net, input=Input(255.0), blocks=tuple(map(turned, net.blocks)), output=scale), WIDTHS)


def cropping() -> Net:
    """A net that first reflects 40 pixels, which residual blocks without padding crop again; in BGR."""
    residuals = [
        Residual(Conv(f"r{at}a", padding="valid", norm=OWN), Conv(f"r{at}b", 1, "valid", "none", OWN, "none"))
        for at in range(5)
    ]
    made: tuple[Block, ...] = (
        Conv("c1", 1, "zero", norm=OWN),
        Conv("c2", 2, "zero", norm=OWN),
        Conv("c3", 2, "zero", norm=OWN),
        *residuals,
        Conv("e1", 1, "zero", "transposed", OWN),
        Conv("e2", 1, "zero", "transposed", OWN),
        Conv("e3", 1, "zero", activation="none"),
    )
    into, out = Input(255.0, "BGR", MEAN), Output("tanh", 150.0, 0.0, "BGR", MEAN, 255.0)
    return _filled(Net("jcjohnson", into, 40, made, out, {}), WIDTHS)


def style(net: Net, seed: int = 0) -> Array:
    """A random style: γ near one and β near zero for each conditioned conv."""
    draw, found = np.random.default_rng(seed), list[NDArray[np.float64]]()
    for conv in net.conditioned:
        found += [draw.uniform(0.5, 1.5, net.channels(conv)), draw.uniform(-0.5, 0.5, net.channels(conv))]
    return np.concatenate(found or [np.zeros(0)]).astype(np.float32)


def photo(height: int, width: int, seed: int = 0) -> Pixels:
    """A photo with a gradient, so that its parts have other statistics than the whole."""
    noise = np.random.default_rng(seed).integers(0, 128, (height, width, 3))
    slope = np.linspace(0, 100, height)[:, None, None] + np.linspace(0, 27, width)[:, None]
    return (noise + slope).astype(np.uint8)


def write_bundle(folder: Path, net: Net, cut: bool = True) -> Path:
    """Write the bundle as `impasto link` does, but with the weights in the graphs."""
    folder.mkdir(parents=True)
    onnx.save(filled(graph.transform(net), net), folder / "transform.onnx")
    size = net.vector_size
    facts = {
        "file": "transform.onnx",
        "inputs": [toy.port("picture", "lanes", 3, "H", "W"), *([toy.port("style", "lanes", size)] if size else [])],
        "outputs": [toy.port("painted", "lanes", 3, "H", "W")],
        "sites": [toy.site("style", size, "vector")] if size else [],
    }
    image = {"width": 64, "height": 64, "multiple_of": net.multiple_of, "max_pixels": 1 << 26}
    manifest = {
        "format": 1,
        "family": "feedforward",
        "name": net.name,
        "architecture": ARCHITECTURE,
        "digest": "8" * 64,
        "image": image,
        "weakened": "pixels",
        "border": net.border,
        "graphs": {"transform": facts},
        **({"pieces": write_pieces(folder, net)} if cut else {}),
    }
    return toy.write_manifest(folder, manifest)


def write_pieces(folder: Path, net: Net) -> dict[str, Any]:
    """Write the pieces' graphs, and γ and β of the net's own norms; returns the manifest's entry."""
    cut = pieces.cut(net)
    assert cut is not None
    for file, model in cut.graphs.items():
        onnx.save(filled(model, net), folder / file)
    if cut.vector is not None:
        save_file({"vector": cut.vector}, folder / pieces.VECTOR)
    return cut.facts


def style_bytes(net: Net, vector: Array) -> bytes:
    """A style as an adapter's file."""
    header = {"format": 1, "kind": "vector", "family": "feedforward", "architecture": ARCHITECTURE, "network": net.name}
    return save({"transform.style.vector": vector}, {"impasto": json.dumps(header)})


def filled(model: ModelProto, net: Net) -> ModelProto:
    """The model with tensors in place of its placeholders."""
    for item in model.graph.initializer:
        if item.data_location == TensorProto.EXTERNAL:
            item.CopyFrom(numpy_helper.from_array(net.tensors[item.name], item.name))
    return model


def _filled(net: Net, widths: tuple[int, int, int]) -> Net:
    """The net with random tensors: weights that keep the size of features, and scales and shifts of its own norms."""
    draw, tensors = np.random.default_rng(len(net.name)), dict[str, Array]()
    for conv, (into, out, kernel) in zip(net.convs, _shapes(widths, len(net.convs)), strict=True):
        weight = draw.standard_normal((out, into, kernel, kernel)) * (2 / (into * kernel**2)) ** 0.5
        tensors[f"{conv.name}.weight"] = weight.astype(np.float32)
        if conv.norm == FIXED:
            tensors[f"{conv.name}.bias"] = draw.uniform(-0.1, 0.1, out).astype(np.float32)
        if conv.norm == OWN:
            tensors[f"{conv.name}.scale"] = draw.uniform(0.5, 1.5, out).astype(np.float32)
            tensors[f"{conv.name}.shift"] = draw.uniform(-0.5, 0.5, out).astype(np.float32)
    return replace(net, tensors=tensors)


def _shapes(widths: tuple[int, int, int], convs: int) -> Iterator[tuple[int, int, int]]:
    a, b, c = widths
    yield from ((3, a, 9), (a, b, 3), (b, c, 3), *((c, c, 3),) * (convs - 6), (c, b, 3), (b, a, 3), (a, 3, 9))


NETS: Mapping[str, Net] = {
    "styled, mirrored": trunk(),
    "styled, zeros": trunk(padding="zero"),
    "own norms, zeros as TensorFlow has them": trunk(OWN, "same"),
    "fixed and styled": half_fixed(),
    "no norms": trunk(FIXED),
    "transposed": transposed("zero"),
    "transposed, as TensorFlow crops": transposed("same"),
    "cropping": cropping(),
}

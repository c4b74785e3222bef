"""What becomes of the exporter's model: folded as onnxscript's optimizer would, and named shortly where it is large."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnxscript import optimizer
from torch import nn

from impasto_export import splice
from impasto_export.architecture import Port
from impasto_export.errors import GraphError
from impasto_export.link import link
from impasto_export.tracing import dims, folding, graphs, skeleton, texts
from impasto_export.tracing.recipes import Recipe
from tests.helpers import checkpoints, reduced
from tests.helpers.engines import run


def test_folding_does_what_the_optimizer_does(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = texts.penultimate_text_encoder(graphs.build("text_encoder", reduced.TEXT))
    folded = graphs.trace(recipe)
    into, out = folding.FOLD_INPUT, folding.FOLD_OUTPUT
    naive = partial(optimizer.optimize_ir, input_size_limit=into, output_size_limit=out)
    monkeypatch.setattr(folding, "fold", naive)
    assert graphs.trace(recipe) == folded


def shortened(path: Path, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    monkeypatch.setattr(skeleton, "MAX_BYTES", path.stat().st_size)
    return onnx.load_from_string(skeleton.serialised(splice.read(path)))


def test_a_large_graph_loses_names_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    long = splice.read(checkpoints.MINI / "unet.onnx")
    short = shortened(checkpoints.MINI / "unet.onnx", monkeypatch)
    assert short.ByteSize() < 0.8 * long.ByteSize()
    assert [node.op_type for node in short.graph.node] == [node.op_type for node in long.graph.node]
    assert not any(node.name for node in short.graph.node)
    for part in ("input", "output", "initializer"):
        assert getattr(short.graph, part) == getattr(long.graph, part)


def test_it_computes_the_same(checkpoint: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "skeleton"
    folder.mkdir()
    for path in checkpoints.MINI.iterdir():
        data = path.read_bytes()
        if path.suffix == ".onnx":
            data = shortened(path, monkeypatch).SerializeToString()
        (folder / path.name).write_bytes(data)
    other = link(checkpoint, tmp_path / "bundle", [folder]).folder
    latents = np.random.default_rng(0).standard_normal((2, checkpoints.CHANNELS, 5, 7), np.float32)
    found, expected = (run("onnxruntime", made, "vae_decoder", {"latents": latents})[0] for made in (other, bundle))
    np.testing.assert_array_equal(found, expected)


def test_names_that_fit_are_kept() -> None:
    data = (checkpoints.MINI / "vae_decoder.onnx").read_bytes()
    assert skeleton.serialised(onnx.load_from_string(data)) == data


def test_what_is_large_for_other_reasons_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skeleton, "MAX_BYTES", 100)
    module = nn.Sequential(OrderedDict(model=nn.Conv2d(2, 3, 1)))
    port = Port("x", "float32", ("n", 2, 4, 4))
    recipe = Recipe("x", "part", module, (torch.randn(2, 2, 4, 4),), ({0: dims.LANES},), (port,), (port,))
    with pytest.raises(GraphError, match=r"part\.safetensors: the skeleton has \d+ bytes, so it carries more"):
        graphs.trace(recipe)


def test_sizes_are_read_off_inputs_that_stay_without_adapters() -> None:
    """torch takes any input that has the size, and adapters could not be cut out of the graph then."""
    model = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 18]>
        main (float[lanes, T, 4] x, int64[lanes, bottleneck_K] bottleneck_rows)
          => (int64[1] lanes_out, int64[1] rows_out, int64[1] own_out) {
          lanes_out = Shape<start=0, end=1>(bottleneck_rows)
          rows_out = Shape<start=1, end=2>(bottleneck_rows)
          own_out = Shape<start=1, end=2>(x)
        }"""
    )
    skeleton.free_of_adapters(model.graph)
    assert [node.input[0] for node in model.graph.node] == ["x", "bottleneck_rows", "x"]

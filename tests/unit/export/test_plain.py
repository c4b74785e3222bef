"""An adapted graph with its sites taken out: the bare backbone's nodes, over the same weights."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.parser
import pytest

from impasto_export import architecture, manifest, splice
from impasto_export.errors import BundleError
from impasto_export.plain import without_adapters
from tests.helpers import checkpoints

SITE = """
<ir_version: 10, opset_import: ["" : 18]>
site (float[n,4] x, float[4,4] bank) => (float[n,4] y)
<float[4,4] weight = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}, float[4] bias = {1,2,3,4}>
{
  biased = Add(x, bias)
  base = MatMul(biased, weight)
  update = MatMul(biased, bank)
  %s
}
"""


def site(body: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(SITE % body)


@pytest.mark.parametrize("pair", ["base, update", "update, base"])
def test_what_is_left_is_the_modules_own(pair: str) -> None:
    graph = without_adapters(site(f"z = Add({pair})\n  y = Relu(z)"), ["x"]).graph
    assert [value.name for value in graph.input] == ["x"]
    assert [(node.op_type, *node.input) for node in graph.node] == [
        ("Add", "x", "bias"),
        ("MatMul", "biased", "weight"),
        ("Relu", "base"),
    ]


def test_a_site_whose_sum_is_the_graphs_output() -> None:
    graph = without_adapters(site("y = Add(base, update)"), ["x"]).graph
    assert [node.op_type for node in graph.node] == ["Add", "MatMul", "Identity"]
    assert list(graph.node[-1].output) == ["y"]


def test_constants_within_a_sites_update_are_not_taken_for_its_module() -> None:
    """As a gelu has them."""
    graph = without_adapters(site("raised = Add(update, bias)\n  y = Add(base, raised)"), ["x"]).graph
    assert [node.op_type for node in graph.node] == ["Add", "MatMul", "Identity"]


def test_the_graph_itself_is_left_alone() -> None:
    model = site("y = Add(base, update)")
    before = model.SerializeToString()
    without_adapters(model, ["x"])
    assert model.SerializeToString() == before


def test_adapters_that_are_not_added_cannot_be_taken_out() -> None:
    with pytest.raises(BundleError, match="site: adapters cannot be taken out of this graph; export its architecture"):
        without_adapters(site("y = Mul(base, update)"), ["x"])


@pytest.mark.parametrize("folder", [checkpoints.MINI, checkpoints.MUSE], ids=["mini-diffusion", "mini-muse"])
def test_graphs_that_ship(folder: Path) -> None:
    """Every weight is still read, and nothing of the adapters is."""
    for name, graph in architecture.load(folder).graphs.items():
        if not graph.plain:
            continue
        model = splice.read(folder / graph.file)
        bare = without_adapters(model, graph.own_inputs)
        assert [value.name for value in bare.graph.input] == graph.own_inputs, name
        assert splice.placeholders(bare) == splice.placeholders(model)
        assert len(model.graph.node) - len(bare.graph.node) >= 5 * len(graph.sites)


def test_a_bundle_has_both(bundle: Path) -> None:
    facts = manifest.load(bundle)
    plain = {name: graph["plain"] for name, graph in facts["graphs"].items() if "plain" in graph}
    assert plain == {"text_encoder": "text_encoder.plain.onnx", "unet": "unet.plain.onnx"}
    for name, file in plain.items():
        own = [port["name"] for port in facts["graphs"][name]["inputs"] if not port["name"].startswith("lora_")]
        assert [value.name for value in splice.read(bundle / file).graph.input] == own
        assert file in facts["files"]

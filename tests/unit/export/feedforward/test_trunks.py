"""Nets with vectors: what is found in their files is told and stands in the manifest; what a file doesn't tell an
option says; and a file that differs gets one error that says where."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from impasto_export import manifest
from impasto_export.architecture import canonical_json
from impasto_export.errors import BundleError, CheckpointError, ExportError
from impasto_export.feedforward import link
from impasto_export.feedforward.found import Said
from impasto_export.weights import read_header, read_tensor
from tests.helpers import trunk_graphs, trunks
from tests.helpers.trunks import Trunk

Array = NDArray[np.float32]
SMALL = (4, 6, 8)


def small(**facts: Any) -> Trunk:
    return Trunk(SMALL, 2, **facts)


def npz(tmp_path: Path, tensors: dict[str, Array]) -> Path:
    np.savez(tmp_path / "net.npz", **tensors)
    return tmp_path / "net.npz"


def graph(tmp_path: Path, made: onnx.ModelProto) -> Path:
    onnx.save(made, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def studio(tmp_path: Path, trunk: Trunk | None = None) -> Path:
    trunks.studio(tmp_path / "mini", trunk or small())
    return tmp_path / "mini"


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The studio's folder with another config."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# What is found.


def test_a_studios_bundle_says_what_the_server_must_know(tmp_path: Path) -> None:
    trunk = small()
    _, neutral = trunks.studio(tmp_path / "mini", trunk)
    made = link.link(tmp_path / "mini", tmp_path / "bundle")
    facts = manifest.load(tmp_path / "bundle")
    assert (facts["family"], facts["name"], facts["weakened"], facts["border"]) == ("feedforward", "mini", "neutral", 0)
    assert facts["architecture"] == made.architecture
    assert facts["image"] == {"width": 512, "height": 512, "multiple_of": 4, "max_pixels": 1 << 26}
    transform, predictor = facts["graphs"]["transform"], facts["graphs"]["predictor"]
    site = {"name": "style", "kind": "vector", "in_features": trunk.size, "out_features": trunk.size}
    assert transform["sites"] == [site]
    assert "plain" not in transform
    assert [port["shape"] for port in transform["inputs"]] == [["lanes", 3, "H", "W"], ["lanes", trunk.size]]
    assert [port["shape"] for port in predictor["inputs"]] == [["n", 3, 32, 32]]
    assert [port["shape"] for port in predictor["outputs"]] == [["n", trunk.size]]
    header = read_header(tmp_path / "bundle" / facts["neutral"]["file"])
    assert np.array_equal(read_tensor(header, "neutral"), neutral)
    assert facts["source"]["network"] == trunks.network(tmp_path / "mini")
    assert facts["trunk"]["told"]["padding"] == "reflect (config.json)"


def test_what_magentas_names_leave_open_is_told_and_can_be_said(tmp_path: Path) -> None:
    trunk = small()
    place = npz(tmp_path, trunks.tensorflow(trunk, trunk.styles(2)))
    found = link.read(place)
    by_code = "as magenta's code has it, for the file doesn't say"
    assert found.told["padding"] == f"reflect, {by_code}; --padding says otherwise"
    assert found.told["epsilon"] == f"1e-05, {by_code}; --epsilon says otherwise"
    assert found.told["conditioned"] == "10 of 10 convs, contract.conv1 to expand.conv3"
    other = link.read(place, Said(padding="same", epsilon=1e-3))
    assert {conv.padding for conv in other.net.convs} == {"same"}
    assert {conv.norm.epsilon for conv in other.net.convs} == {1e-3}
    assert other.told["padding"].startswith("same, as was said")
    assert other.net.digest != found.net.digest, "a style belongs to what its net does"
    assert (found.net.border, other.net.border) == (0, 40)


def test_fixed_norms_are_folded_and_told(tmp_path: Path) -> None:
    trunk = small(fixed=3)
    weight, bias = trunks.embedding_layer(trunk)
    found = link.read(npz(tmp_path, trunks.tensorflow(trunk, layer=(weight, bias))))
    assert found.net.conditioned[0].name == "residual.1.conv1"
    assert found.told["fixed norms"].startswith("ε 0.001")
    assert {"contract.conv1.bias", "contract.conv3.bias"} <= found.net.tensors.keys()
    assert found.expand is not None
    assert np.array_equal(found.expand.weight, weight)
    assert np.array_equal(found.expand.bias, bias)
    assert found.weakened == "pixels"
    assert found.told["predictor"].startswith("none, for InceptionV3 is not read; --predictor names a graph")
    assert not found.vectors
    onnx.save(trunks.predictor(), tmp_path / "predict.onnx")
    whole = link.read(tmp_path / "net.npz", Said(predictor=tmp_path / "predict.onnx"))
    assert (whole.weakened, whole.told["predictor"]) == ("content", "predict.onnx, as named")


def test_a_graph_tells_its_facts_itself(tmp_path: Path) -> None:
    trunk = small()
    place = graph(tmp_path, trunk_graphs.tables(trunk, trunk.styles(3)))
    found = link.read(place)
    assert found.told["padding"] == "reflect, the graph's"
    assert found.told["epsilon"] == "1e-05, the graph's"
    assert [*found.vectors] == ["00", "01", "02"]
    assert (found.net.name, found.net.vector_size) == ("cin-4-6-8", trunk.size)
    zeros = link.read(graph(tmp_path, trunk_graphs.tables(trunk, trunk.styles(3), mode="constant")))
    assert {conv.padding for conv in zeros.net.convs} == {"zero"}
    for said in (Said(padding="zero"), Said(epsilon=1e-3)):
        with pytest.raises(CheckpointError, match="net.onnx tells that itself"):
            link.read(place, said)
    assert link.read(place, Said(input_scale=255.0)).net.input.scale == 255
    for scale in (0.0, -255.0, float("nan")):
        with pytest.raises(CheckpointError, match="--input-scale: got .*; the value of white is expected, 1 or 255"):
            link.read(place, Said(input_scale=scale))


def test_the_same_net_is_the_same_however_it_comes(tmp_path: Path) -> None:
    """Styles of one file are for a bundle of another."""
    trunk = small()
    styles = trunk.styles(3)
    places = (npz(tmp_path, trunks.tensorflow(trunk, styles)), graph(tmp_path, trunk_graphs.tables(trunk, styles)))
    one, other = (link.read(place) for place in (*places,))
    assert one.net.digest == other.net.digest
    assert all(np.array_equal(one.vectors[number], other.vectors[number]) for number in one.vectors)


def test_weights_of_int8_are_read_as_what_they_stand_for(tmp_path: Path) -> None:
    trunk = small(fixed=3)
    found = link.read(graph(tmp_path, trunk_graphs.embedded(trunk)))
    place = trunk.places[4]
    expected = trunk_graphs.dequantised(trunk.weight(place))
    assert np.array_equal(found.net.tensors[f"{place.name}.weight"], expected)
    assert found.told["weights"] == "int8 in the graph, float here"
    assert (found.told["input"], found.net.input.scale) == ("RGB 0-1, as the graph rounds it", 1.0)
    with pytest.raises(CheckpointError, match="--input-scale: got 255.0; .*net.onnx tells that itself"):
        link.read(tmp_path / "net.onnx", Said(input_scale=255.0))
    assert found.told["conditioned"].startswith("7 of 10 convs")
    assert found.expand is not None
    assert found.told["predictor"].startswith("none; --predictor names")


def test_a_predictor_beside_its_transform_is_found_and_told(tmp_path: Path) -> None:
    onnx.save(trunk_graphs.embedded(small()), tmp_path / "arbitrary_transform.onnx")
    onnx.save(trunks.predictor("NHWC"), tmp_path / "arbitrary_predict.onnx")
    made = link.link(tmp_path / "arbitrary_transform.onnx", tmp_path / "bundle")
    assert "predictor: arbitrary_predict.onnx, which lies beside it, NHWC, 32 px" in made.notes
    facts = manifest.load(tmp_path / "bundle")
    assert facts["weakened"] == "content"
    assert facts["graphs"]["predictor"]["inputs"][0]["shape"] == [1, 3, 32, 32]
    with pytest.raises(CheckpointError, match="--predictor: got .*absent.onnx; there is no such file"):
        link.read(tmp_path / "arbitrary_transform.onnx", Said(predictor=tmp_path / "absent.onnx"))


# Bundles.


def test_linking_again_leaves_a_bundle_alone(tmp_path: Path) -> None:
    place = studio(tmp_path)
    first, again = (link.link(place, tmp_path / "bundle") for _ in range(2))
    assert (first.reused, again.reused) == (False, True)
    assert first.digest == again.digest
    changed(place, lambda config: config.update(name="maxi"))
    assert not link.link(place, tmp_path / "bundle").reused


def test_nothing_but_a_bundle_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_bytes(b"dear")
    with pytest.raises(BundleError, match="mine exists and is not a bundle; choose another folder"):
        link.link(studio(tmp_path), tmp_path / "mine")


def test_a_manifest_that_was_changed_is_no_bundle_any_more(tmp_path: Path) -> None:
    link.link(studio(tmp_path), tmp_path / "bundle")
    facts = manifest.load(tmp_path / "bundle")
    (tmp_path / "bundle" / "manifest.json").write_bytes(canonical_json({**facts, "border": 7}))
    with pytest.raises(BundleError, match="was changed after linking"):
        manifest.load(tmp_path / "bundle")


# What differs.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda config: config.pop("trunk"), "trunk is None"),
        (lambda config: config["trunk"].update(padding="wrap"), "trunk.padding is 'wrap'; known: reflect, zero, same"),
        (lambda config: config["trunk"].update(layout="unet"), "trunk.layout is 'unet'; known: cin"),
        (lambda config: config["trunk"].update(upsampling="bilinear"), "trunk.upsampling is 'bilinear'"),
        (lambda config: config["trunk"].pop("epsilon"), "trunk cannot be read"),
        (lambda config: config["trunk"].update(epsilon=0), "numbers above 0 are expected"),
        (lambda config: config["trunk"].update(widths=[4, 6]), "three widths"),
        (
            lambda config: config["trunk"].update(widths=[4, 6, 16]),
            r"its convs are \[4, 6, 8\] wide, but its config says",
        ),
        (lambda config: config["trunk"].update(residuals=3), "residual.3.conv1.weight is missing"),
        (lambda config: config["trunk"].update(input=3), "trunk cannot be read"),
        (lambda config: config["predictor"].update(size=-5), r"takes \[.*\], but config.json says .* 3 x -5 x -5"),
        (lambda config: config["predictor"].update(file="absent.onnx"), "absent.onnx is missing"),
        (lambda config: config["predictor"].update(embedding=7), r"expand_embedding.weight is \[\d+, 100\]; expected"),
        (lambda config: config.update(predictor=[]), "predictor is"),
    ],
)
def test_a_config_that_is_wrong_is_told_by_its_entry(
    change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=said):
        link.read(changed(studio(tmp_path), change))


def test_a_studios_folder_says_all_itself(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="--padding: got zero; .*mini tells that itself"):
        link.read(studio(tmp_path), Said(padding="zero"))


def test_tensors_that_are_not_the_nets_are_named(tmp_path: Path) -> None:
    place = studio(tmp_path)
    tensors = load_file(place / "model.safetensors")
    save_file({**tensors, "neutral": tensors["neutral"][:-1]}, place / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"neutral is \[\d+\]; expected"):
        link.read(place)
    save_file({**tensors, "neutral": np.full_like(tensors["neutral"], np.nan)}, place / "model.safetensors")
    with pytest.raises(CheckpointError, match="neutral holds NaN or infinity"):
        link.read(place)


def variables() -> dict[str, Array]:
    trunk = small()
    return trunks.tensorflow(trunk, trunk.styles(2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda held: held.pop("transformer/expand/conv2/conv/weights"), "expand/conv2/conv/weights is missing"),
        (lambda held: held.pop("transformer/expand/conv2/conv/InstanceNorm/gamma"), "there is no InstanceNorm"),
        (lambda held: held.pop("transformer/contract/conv2/InstanceNorm/beta"), "different numbers of styles"),
        (
            lambda held: held.update({"transformer/contract/conv1/InstanceNorm/beta": np.zeros((3, 4), np.float32)}),
            r"different numbers of styles: \[2, 3\]",
        ),
        (
            lambda held: held.update({"transformer/contract/conv4/weights": np.zeros((3, 3, 8, 8), np.float32)}),
            "transformer/contract/conv4/weights: the trunk has no such conv, so nothing was linked",
        ),
        (
            lambda held: held.update({"transformer/contract/conv2/weights": np.zeros((3, 3, 5, 6), np.float32)}),
            r"contract.conv2.weight is \[6, 5, 3, 3\], but the conv before it gives 4 channels",
        ),
        (
            lambda held: held.update({"transformer/contract/conv2/weights": np.zeros((3, 6), np.float32)}),
            r"contract/conv2/weights is \[3, 6\]; \[k, k, in, out\] is expected",
        ),
    ],
)
def test_a_checkpoint_that_is_wrong_is_told_by_its_tensor(
    change: Callable[[dict[str, Array]], object], said: str, tmp_path: Path
) -> None:
    held = variables()
    change(held)
    with pytest.raises(CheckpointError, match=said):
        link.read(npz(tmp_path, held))


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (Said(padding="wrap"), "--padding: got 'wrap'; choose reflect, zero, same"),
        (Said(epsilon=-1.0), "--epsilon: got -1.0; a small number above 0"),
        (Said(input_scale=255.0), "--input-scale: got 255.0; .* does not need it"),
    ],
)
def test_what_is_said_wrongly_is_told_by_its_option(said: Said, problem: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=problem):
        link.read(npz(tmp_path, variables()), said)


def test_an_optimisers_slots_and_other_nets_are_left_out(tmp_path: Path) -> None:
    held = variables()
    more = {"transformer/contract/conv1/weights/Adam_1": held["transformer/contract/conv1/weights"]}
    more |= {"vgg_16/conv1/conv1_1/weights": np.zeros((3, 3, 3, 64), np.float32)}
    assert link.read(npz(tmp_path, {**held, **more})).net.digest == link.read(npz(tmp_path, held)).net.digest
    numbered = {f"{name}:0": array for name, array in held.items()}
    assert link.read(npz(tmp_path, numbered)).net.digest == link.read(npz(tmp_path, held)).net.digest


def renamed(made: onnx.ModelProto, old: str, new: str) -> onnx.ModelProto:
    for node in made.graph.node:
        node.op_type = new if node.op_type == old else node.op_type
    return made


def without_pad(made: onnx.ModelProto) -> onnx.ModelProto:
    """Of the third conv."""
    pads = [node for node in made.graph.node if node.op_type == "Pad"]
    for node in made.graph.node:
        node.input[:] = [pads[2].input[0] if name == pads[2].output[0] else name for name in node.input]
    made.graph.node.remove(pads[2])
    return made


def two_epsilons(made: onnx.ModelProto) -> onnx.ModelProto:
    (epsilon,) = [item for item in made.graph.initializer if item.name == "epsilon"]
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1e-3, np.float32), "other"))
    node = next(node for node in made.graph.node if epsilon.name in node.input)
    node.input[1] = "other"
    return made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda made: renamed(made, "Relu", "LeakyRelu"), "LeakyRelu, which no trunk has"),
        (lambda made: renamed(made, "Sigmoid", "Tanh"), "expand.conv3 is .*'tanh'.*, but .*'sigmoid'.* is expected"),
        (without_pad, "its convs are padded by"),
        (two_epsilons, r"its norms have ε \[1e-05, 0.001"),
        (lambda made: renamed(made, "Resize", "Identity"), "expand.conv1 is"),
    ],
)
def test_a_graph_of_another_net_is_told_by_where_it_differs(
    change: Callable[[onnx.ModelProto], onnx.ModelProto], said: str, tmp_path: Path
) -> None:
    trunk = small()
    with pytest.raises(CheckpointError, match=f"net.onnx is not a graph of a known net: .*{said}"):
        link.read(graph(tmp_path, change(trunk_graphs.tables(trunk, trunk.styles(2)))))


def test_a_graph_of_no_net_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="net.onnx is not a graph of a known net"):
        link.read(graph(tmp_path, trunks.predictor()))
    (tmp_path / "net.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="net.onnx cannot be read as ONNX"):
        link.read(tmp_path / "net.onnx")


def test_a_file_of_nothing_known_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="not a feed-forward net of a known layout; its tensors: apple"):
        link.read(npz(tmp_path, {"apple": np.zeros(3, np.float32)}))
    (tmp_path / "net.npz").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(CheckpointError, match="net.npz cannot be read as .npz"):
        link.read(tmp_path / "net.npz")

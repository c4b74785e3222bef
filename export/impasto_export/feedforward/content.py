"""The content of a feed-forward net's bundle: its graphs, the pieces for large pictures, its files of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from onnx import ModelProto, ValueInfoProto

from impasto_export import splice
from impasto_export.architecture import VECTOR, Graph, Json, Port, Site
from impasto_export.bundles import Content
from impasto_export.checkpoints.checkpoint import Stored, label
from impasto_export.families import FEEDFORWARD
from impasto_export.feedforward import graph, pieces, predictor
from impasto_export.feedforward.found import Found, Said
from impasto_export.feedforward.net import Array
from impasto_export.weights import Tensor, encode, layout

TRANSFORM, PREDICTOR = "transform", "predictor"
WEIGHTS, NEUTRAL, EXPAND = "transform.safetensors", "neutral.safetensors", "expand.safetensors"
# A request's default size, and the largest area: 8192 x 8192.
IMAGE = {"width": 512, "height": 512, "max_pixels": 1 << 26}


@dataclass(frozen=True)
class Tensors:
    """A file of float32 tensors."""

    arrays: Mapping[str, Array]

    @cached_property
    def data(self) -> bytes:
        return encode({name: ("F32", array) for name, array in self.arrays.items()}, {})

    @property
    def places(self) -> dict[str, Tensor]:
        _, places = layout({name: ("F32", array.shape) for name, array in self.arrays.items()}, {})
        return dict(zip(sorted(self.arrays), places, strict=True))


def of(found: Found, place: Path, said: Said) -> Content:
    """The bundle's content from what a reader found in `place`, with the user's options `said`."""
    tensors, cut = _tensors(found), pieces.cut(found.net)
    models = {TRANSFORM: graph.transform(found.net), **_predicting(found)}
    parts = {**{f"{name}.onnx": model for name, model in models.items()}, **(cut.graphs if cut else {})}
    vector = {pieces.VECTOR: Tensors({"vector": cut.vector}).data} if cut and cut.vector is not None else {}
    places = {name: Stored(file, at) for file, held in tensors.items() for name, at in held.places.items()}
    return Content(
        name=found.name,
        family=FEEDFORWARD,
        architecture=found.net.digest,
        facts={**_facts(found), **({"pieces": cut.facts} if cut else {}), "source": _source(found, place, said)},
        graphs={name: _graph(found, name, model) for name, model in models.items()},
        weights={file: held.data for file, held in tensors.items()},
        files={**{file: splice.point(model, places) for file, model in parts.items()}, **vector},
    )


def _facts(found: Found) -> Json:
    return {
        "image": {**IMAGE, "multiple_of": found.net.multiple_of},
        "weakened": found.weakened,
        "border": found.net.border,
        "trunk": {**found.net.facts, "told": dict(found.told)},
        **({"neutral": {"file": NEUTRAL}} if found.neutral is not None else {}),
        **({"expand": {"file": EXPAND, "embedding": found.expand.width}} if found.expand else {}),
    }


def _source(found: Found, place: Path, said: Said) -> Json:
    network = {"network": found.network} if found.network else {}
    return {"checkpoint": label(place.resolve().name), "said": said.given, **network}


def _predicting(found: Found) -> dict[str, ModelProto]:
    if found.predictor is None:
        return {}
    assert found.expand is not None, "a predictor's embedding is expanded"
    return {PREDICTOR: predictor.graph(found.predictor, found.expand)}


def _graph(found: Found, name: str, model: ModelProto) -> Graph:
    size = found.net.vector_size
    sites = (Site(graph.STYLE, size, size, VECTOR),) if size and name == TRANSFORM else ()
    inputs, outputs = (tuple(map(_port, items)) for items in (model.graph.input, model.graph.output))
    return Graph(name, f"{name}.onnx", inputs, outputs, sites)


def _port(item: ValueInfoProto) -> Port:
    return Port(
        item.name, "float32", tuple(side.dim_param or side.dim_value for side in item.type.tensor_type.shape.dim)
    )


def _tensors(found: Found) -> dict[str, Tensors]:
    """File's name -> its tensors by name."""
    expand = {EXPAND: predictor.tensors(found.expand)} if found.expand else {}
    neutral = {NEUTRAL: {"neutral": found.neutral}} if found.neutral is not None else {}
    return {file: Tensors(held) for file, held in {WEIGHTS: found.net.tensors, **expand, **neutral}.items()}

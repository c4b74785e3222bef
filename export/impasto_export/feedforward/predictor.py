"""Make a predictor's graph for the server: picture [n, 3, S, S] RGB 0–1 in, style [n, N] out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, compose, helper

from impasto_export.errors import CheckpointError
from impasto_export.feedforward import onnx_file, tape
from impasto_export.feedforward.found import Expand, Predictor
from impasto_export.feedforward.graph import FLOAT, PICTURE, STYLE, placeholder
from impasto_export.feedforward.net import Array

WEIGHT, BIAS = "expand.weight", "expand.bias"


def tensors(expand: Expand) -> dict[str, Array]:
    """The linear layer's tensors under the graph's names: weight [N, D], bias [N]."""
    return {WEIGHT: expand.weight, BIAS: expand.bias}


def read(place: Path) -> Predictor:
    """The predictor in an ONNX file. Raises CheckpointError unless its input is a square picture of a fixed size."""
    if not place.is_file():
        raise CheckpointError(f"--predictor: got {place}; there is no such file")
    model = onnx_file.read(place)
    name = tape.picture(model.graph)
    item = next(value for value in model.graph.input if value.name == name)
    sides = [side.dim_value for side in item.type.tensor_type.shape.dim]
    layout: Literal["NCHW", "NHWC"] = "NCHW" if sides[1] == 3 else "NHWC"
    height, width = sides[2:] if layout == "NCHW" else sides[1:3]
    if height != width or not height:
        raise CheckpointError(f"--predictor: {place} takes {sides}; a square picture of one size is expected")
    return Predictor(model, height, layout)


def graph(predictor: Predictor, expand: Expand) -> ModelProto:
    """The predictor's own graph, with its input in NCHW and the linear layer after it, whose tensors are placeholders.

    Raises CheckpointError for a graph with several outputs.
    """
    model: ModelProto = compose.add_prefix(predictor.model, "predictor/")  # avoids clashes with the names added here
    own = model.graph
    if len(own.output) != 1:
        raise CheckpointError(f"{own.name}: a predictor of one output is expected")
    entry = next(item for item in own.input if item.name == tape.picture(own))
    batch = entry.type.tensor_type.shape.dim[0].dim_value or "n"
    shape = helper.make_tensor("embedding.shape", TensorProto.INT64, [2], [-1, expand.width])
    held = [placeholder(name, array.shape) for name, array in tensors(expand).items()]
    made = helper.make_graph(
        [_turned(predictor, entry.name), *own.node, *_expanded(own.output[0].name, shape.name)],
        "predictor",
        [_value(PICTURE, batch, 3, predictor.size, predictor.size)],
        [_value(STYLE, batch, len(expand.bias))],
        [*own.initializer, shape, *held],
    )
    model.graph.CopyFrom(made)
    return model


def _turned(predictor: Predictor, entry: str) -> NodeProto:
    if predictor.layout == "NCHW":
        return helper.make_node("Identity", [PICTURE], [entry], name=PICTURE)
    return helper.make_node("Transpose", [PICTURE], [entry], name=PICTURE, perm=[0, 2, 3, 1])


def _expanded(embedding: str, shape: str) -> list[NodeProto]:
    flat = "embedding.flat"
    return [
        helper.make_node("Reshape", [embedding, shape], [flat], name=flat),
        helper.make_node("Gemm", [flat, WEIGHT, BIAS], [STYLE], name=STYLE, transB=1),
    ]


def _value(name: str, *shape: int | str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, list(shape))

"""Read an untrusted ONNX file: a single file that contains its weights, each of its stated size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto, numpy_helper

from impasto_export.errors import CheckpointError

# The largest file that is read.
MAX_BYTES = 1 << 30


def read(place: Path) -> ModelProto:
    """The model. Raises CheckpointError for anything else; files that it refers to are never opened."""
    size = place.stat().st_size
    if size > MAX_BYTES:
        raise CheckpointError(f"{place} has {size} bytes; graphs of up to {MAX_BYTES} are read")
    try:
        model = onnx.load(str(place), load_external_data=False)
    except DecodeError:
        raise CheckpointError(f"{place} cannot be read as ONNX; get it again") from None
    if not model.graph.node:
        raise CheckpointError(f"{place} cannot be read as ONNX: it holds no graph; get it again")
    for tensor in _tensors(model):
        _check(tensor, place)
    return model


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """All tensors: the graph's initializers and the nodes' attributes."""
    yield from model.graph.initializer
    yield from (one.t for node in model.graph.node for one in node.attribute if one.HasField("t"))


def _check(tensor: TensorProto, place: Path) -> None:
    if tensor.data_location == TensorProto.EXTERNAL:
        problem = f"its tensor {tensor.name} lies in another file"
        raise CheckpointError(f"{place}: {problem}; save the graph with its weights inside (onnx.save_model)")
    try:
        numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{place}: its tensor {tensor.name} is damaged ({error}); get it again") from None

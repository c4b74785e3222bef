"""Point a skeleton's placeholders into safetensors files: offset, length, and a Cast where dtypes differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from impasto_export.checkpoints.checkpoint import Stored
from impasto_export.weights import Tensor

ONNX_DTYPE = {
    "F64": TensorProto.DOUBLE,
    "F32": TensorProto.FLOAT,
    "F16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
}


@dataclass(frozen=True)
class Slot:
    """What a placeholder expects: a tensor of this shape, of any float dtype."""

    shape: tuple[int, ...]


def read(path: Path) -> onnx.ModelProto:
    return onnx.load(str(path), load_external_data=False)


def placeholders(model: onnx.ModelProto) -> dict[str, Slot]:
    return {item.name: Slot(tuple(item.dims)) for item in model.graph.initializer if _is_placeholder(item)}


def fits(tensor: Tensor, slot: Slot) -> bool:
    return tensor.shape == slot.shape and tensor.dtype in ONNX_DTYPE


def point(model: onnx.ModelProto, tensors: Mapping[str, Stored]) -> bytes:
    """The serialised graph, each placeholder pointing at the tensor of the same name, in its file."""
    casts = []
    for item in model.graph.initializer:
        if _is_placeholder(item):
            stored = tensors[item.name]
            cast = _cast(item, ONNX_DTYPE[stored.tensor.dtype])
            casts += [cast] if cast else []
            _place(item, stored)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _is_placeholder(item: TensorProto) -> bool:
    return item.data_location == TensorProto.EXTERNAL


def _cast(item: TensorProto, dtype: int) -> onnx.NodeProto | None:
    """Rename the initializer and give it its stored dtype; the Cast's output has the old name, which the graph reads.
    None where the dtypes agree."""
    if item.data_type == dtype:
        return None
    name, wanted = item.name, item.data_type
    item.name, item.data_type = f"{name}.stored", dtype
    return onnx.helper.make_node("Cast", [item.name], [name], name=f"{name}.cast", to=wanted)


def _place(item: TensorProto, stored: Stored) -> None:
    del item.external_data[:]
    place = {"location": stored.file, "offset": stored.tensor.offset, "length": stored.tensor.length}
    for key, value in place.items():
        item.external_data.add(key=key, value=str(value))

"""A bundle's weights: where each lies, under the name that its graph gives it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import TensorProto

from impasto_export import splice
from impasto_export.architecture import Json
from impasto_export.errors import BundleError
from impasto_export.weights import ITEM_BYTES, Header, Tensor, read_tensor

# splice appends this to the name of a tensor that goes through a Cast; the Cast's output has the parameter's own name.
STORED = ".stored"
DTYPE: dict[int, str] = {number: name for name, number in splice.ONNX_DTYPE.items()}


@dataclass(frozen=True)
class Parameter:
    """A weight in the bundle's `file`: dtype as stored, shape as in the graph, offset and length in bytes."""

    file: str
    tensor: Tensor


def of(bundle: Path, manifest: Json) -> dict[str, dict[str, Parameter]]:
    """graph -> parameter's name -> where it lies. Raises BundleError for a graph that is missing or damaged."""
    return {name: _of_graph(bundle / facts["file"]) for name, facts in manifest["graphs"].items()}


def values(bundle: Path, name: str, parameter: Parameter) -> NDArray[Any]:
    """The parameter as stored, bf16 as its bits. Raises BundleError when its file is missing or too short."""
    path, tensor = bundle / parameter.file, parameter.tensor
    if not path.is_file() or path.stat().st_size < tensor.offset + tensor.length:
        raise BundleError(f"{path} is missing or cut short, and {name} lies in it; link the checkpoint again")
    return read_tensor(Header(path, {name: tensor}, {}), name)


def _of_graph(path: Path) -> dict[str, Parameter]:
    try:
        model = splice.read(path)
    except FileNotFoundError:
        raise BundleError(f"{path} is missing; link the checkpoint again") from None
    except DecodeError:
        raise BundleError(f"{path} is not an ONNX graph; link the checkpoint again") from None
    inside = (item for item in model.graph.initializer if item.data_location == TensorProto.EXTERNAL)
    return {item.name.removesuffix(STORED): _parameter(path, item) for item in inside}


def _parameter(path: Path, item: onnx.TensorProto) -> Parameter:
    place = {entry.key: entry.value for entry in item.external_data}
    shape, dtype = tuple(item.dims), DTYPE.get(item.data_type, "?")
    length = ITEM_BYTES.get(dtype, 0) * math.prod(shape)
    if not {"location", "offset"} <= place.keys() or int(place.get("length", -1)) != length:
        problem = f"{item.name} is {dtype} {list(shape)}, but its place is {dict(sorted(place.items()))}"
        raise BundleError(f"{path}: {problem}; link the checkpoint again")
    return Parameter(place["location"], Tensor(dtype, shape, int(place["offset"]), length))

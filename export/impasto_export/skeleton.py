"""From what torch exported to a skeleton: parameters become data-less placeholders under their own names, everything
else is folded and stays inline, debug metadata goes."""

from __future__ import annotations

from collections.abc import Callable, Collection

import onnx
import onnx_ir as ir
from onnxscript import optimizer

from impasto_export.architecture import Port
from impasto_export.errors import GraphError

MAX_BYTES = 1_000_000
# Bytes of a constant that folding may read or make: shape arithmetic, never a weight.
FOLD_INPUT, FOLD_OUTPUT = 4096, 16384


def make(
    model: ir.Model, parameters: Collection[str], rename: Callable[[str], str], location: str, outputs: tuple[Port, ...]
) -> bytes:
    """Serialised skeleton of `model`. `location` is the file that the placeholders will point into; `rename` maps an
    exported parameter name to the checkpoint's. Raises GraphError when the result is not under 1 MB."""
    weights = _hold_back(model.graph, parameters)
    # The exporter's own optimizer would fold weights into transposed copies; as inputs they are out of its reach.
    model.graph.inputs.extend(weights)
    optimizer.optimize_ir(model, input_size_limit=FOLD_INPUT, output_size_limit=FOLD_OUTPUT)
    del model.graph.inputs[len(model.graph.inputs) - len(weights) :]
    for value in weights:
        value.name = rename(str(value.name))
        value.const_value = _placeholder(value, location)
        model.graph.register_initializer(value)
    _name_dimensions(model.graph, outputs)
    data: bytes = _stripped(ir.to_proto(model)).SerializeToString(deterministic=True)
    if len(data) >= MAX_BYTES:
        raise GraphError(f"{location}: the skeleton has {len(data)} bytes, so it carries more than structure")
    return data


def _hold_back(graph: ir.Graph, parameters: Collection[str]) -> list[ir.Value]:
    """Take the used parameters out of the initializers, in name order."""
    names = sorted(name for name in graph.initializers if name in parameters)
    values = [graph.initializers.pop(name) for name in names]
    return [value for value in values if value.uses()]


def _placeholder(value: ir.Value, location: str) -> ir.ExternalTensor:
    held = value.const_value
    assert held is not None, "an initializer of the exporter has a value"
    return ir.ExternalTensor(location, 0, 0, held.dtype, shape=ir.Shape(held.shape.numpy()), name=str(value.name))


def _name_dimensions(graph: ir.Graph, outputs: tuple[Port, ...]) -> None:
    for value, port in zip(graph.outputs, outputs, strict=True):
        value.shape = ir.Shape(port.shape)


def _stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop stack traces, module paths, inferred shapes and doc strings: none of it changes what the graph computes."""
    model.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    model.graph.doc_string = ""
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    return model

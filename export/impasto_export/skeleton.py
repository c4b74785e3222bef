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
    model: ir.Model,
    parameters: Collection[str],
    rename: Callable[[str], str],
    location: str,
    inputs: tuple[Port, ...],
    outputs: tuple[Port, ...],
) -> bytes:
    """Serialised skeleton of `model`. `location` is the file that the placeholders will point into; `rename` maps an
    exported parameter name to the checkpoint's. Raises GraphError when the result is not under 1 MB."""
    _free_dimensions(model.graph, inputs)
    weights = _hold_back(model.graph, parameters)
    # The exporter's own optimizer would fold weights into transposed copies; as inputs they are out of its reach. Nor
    # may it see their values: a bias that happens to be zero in this module would be left out of the graph.
    placeholders = [_placeholder(value, location, rename) for value in weights]
    model.graph.inputs.extend(weights)
    optimizer.optimize_ir(model, input_size_limit=FOLD_INPUT, output_size_limit=FOLD_OUTPUT)
    del model.graph.inputs[len(model.graph.inputs) - len(weights) :]
    for value, placeholder in zip(weights, placeholders, strict=True):
        value.name, value.const_value = placeholder.name, placeholder
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


def _placeholder(value: ir.Value, location: str, rename: Callable[[str], str]) -> ir.ExternalTensor:
    """What will stand for `value`, whose own tensor is taken away."""
    held, value.const_value = value.const_value, None
    assert held is not None, "an initializer of the exporter has a value"
    shape, name = ir.Shape(held.shape.numpy()), rename(str(value.name))
    return ir.ExternalTensor(location, 0, 0, held.dtype, shape=shape, name=name)


def _free_dimensions(graph: ir.Graph, inputs: tuple[Port, ...]) -> None:
    """A size that torch took from the example, where the port has a name, becomes that name: whoever made the port
    knows that the traced nodes hold for other sizes, too. It comes before folding, which would use the size."""
    for value, port in zip(graph.inputs, inputs, strict=False):  # the banks come after the ports
        assert value.name == port.name, f"{value.name} is not {port.name}"
        assert value.shape is not None, "torch states every input's shape"
        pairs = zip(value.shape, port.shape, strict=True)
        value.shape = ir.Shape(
            name if isinstance(size, int) and isinstance(name, str) else size for size, name in pairs
        )


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

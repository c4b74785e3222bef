"""Make a skeleton from torch's export: parameters become placeholders without data, under their own names; all else is
folded and stays inline; debug metadata goes."""

from __future__ import annotations

from collections.abc import Container, Mapping

import onnx
import onnx_ir as ir

from impasto_export.architecture import BOTTLENECK, LORA, Port, told
from impasto_export.errors import GraphError
from impasto_export.tracing import folding

MAX_BYTES = 1_000_000
TOLD = {port.name for kind in (LORA, BOTTLENECK) for port in told(kind)}
Shape = tuple[int, ...]


def make(
    model: ir.Model,
    names: Mapping[str, str],
    whole: Mapping[str, Shape],
    location: str,
    inputs: tuple[Port, ...],
    outputs: tuple[Port, ...],
) -> bytes:
    """Serialised skeleton of `model`. `names`: exported parameter -> the checkpoint's name. `whole`: shapes of the
    parameters that need a placeholder even if nothing reads them. `location` is the file that placeholders will point
    into. Raises GraphError when the result is not under 1 MB."""
    _free_dimensions(model.graph, inputs)
    weights = _hold_back(model.graph, names)
    # Folding would make transposed copies of weights; as inputs they are out of its reach. It must not see their values
    # either: it would drop a bias that happens to be zero in this module.
    placeholders = [_placeholder(value, location, names) for value in weights]
    model.graph.inputs.extend(weights)
    folding.fold(model)
    del model.graph.inputs[len(model.graph.inputs) - len(weights) :]
    for value, placeholder in zip(weights, placeholders, strict=True):
        value.name, value.const_value = placeholder.name, placeholder
        model.graph.register_initializer(value)
    _complete(model.graph, location, whole)
    _name_dimensions(model.graph, outputs)
    proto = _stripped(ir.to_proto(model))
    free_of_adapters(proto.graph)
    data = serialised(proto)
    if len(data) >= MAX_BYTES:
        raise GraphError(f"{location}: the skeleton has {len(data)} bytes, so it carries more than structure")
    return data


def serialised(model: onnx.ModelProto) -> bytes:
    """The serialised model; it keeps the exporter's node names, for profiles, unless they make it too large."""
    data: bytes = model.SerializeToString(deterministic=True)
    if len(data) >= MAX_BYTES:
        _shorten(model.graph)
        data = model.SerializeToString(deterministic=True)
    return data


def _shorten(graph: onnx.GraphProto) -> None:
    """Drop the nodes' names, and number the values between them. The names are a quarter of SDXL's UNet."""
    kept = {item.name for part in (graph.input, graph.output, graph.initializer) for item in part}
    numbers = {"": ""}
    for node in graph.node:
        assert not any(attribute.HasField("g") for attribute in node.attribute), "a graph within would keep the names"
        node.ClearField("name")
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                if name not in kept:
                    values[index] = numbers.setdefault(name, f"v{len(numbers):x}")


def _hold_back(graph: ir.Graph, parameters: Container[str]) -> list[ir.Value]:
    """Take the parameters out of the initializers; return those that are used, in name order."""
    names = sorted(name for name in graph.initializers if name in parameters)
    values = [graph.initializers.pop(name) for name in names]
    return [value for value in values if value.uses()]


def _placeholder(value: ir.Value, location: str, names: Mapping[str, str]) -> ir.ExternalTensor:
    """The placeholder for `value`, whose own tensor is removed."""
    held, value.const_value = value.const_value, None
    assert held is not None, "an initializer of the exporter has a value"
    return _external(names[str(value.name)], tuple(held.shape.numpy()), location)


def _external(name: str, shape: Shape, location: str) -> ir.ExternalTensor:
    return ir.ExternalTensor(location, 0, 0, ir.DataType.FLOAT, shape=ir.Shape(shape), name=name)


def _complete(graph: ir.Graph, location: str, whole: Mapping[str, Shape]) -> None:
    """Add placeholders for the parameters that torch left out."""
    for name in sorted(whole.keys() - graph.initializers.keys()):
        placeholder = _external(name, whole[name], location)
        kind = ir.TensorType(placeholder.dtype)
        graph.register_initializer(ir.Value(name=name, shape=placeholder.shape, type=kind, const_value=placeholder))


def _free_dimensions(graph: ir.Graph, inputs: tuple[Port, ...]) -> None:
    """Give an input's fixed size the name that its port has: the port's author knows that the traced nodes hold for
    other sizes, too. This comes before folding, which would use the fixed size."""
    for value, port in zip(graph.inputs, inputs, strict=False):  # the banks come after the ports
        assert value.name == port.name, f"{value.name} is not {port.name}"
        assert value.shape is not None, "torch states every input's shape"
        pairs = zip(value.shape, port.shape, strict=True)
        value.shape = ir.Shape(
            name if isinstance(size, int) and isinstance(name, str) else size for size, name in pairs
        )


def free_of_adapters(graph: onnx.GraphProto) -> None:
    """Where torch reads a size from an adapter's input, read it from the first input with that size: so adapters can be
    cut out of the graph."""
    sizes = {value.name: [size.dim_param for size in value.type.tensor_type.shape.dim] for value in graph.input}
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] in TOLD:
            axis, end = (next(item.i for item in node.attribute if item.name == name) for name in ("start", "end"))
            assert end == axis + 1, "sizes are read one by one"
            wanted = sizes[node.input[0]][axis]
            node.input[0] = next(name for name, held in sizes.items() if held[axis : axis + 1] == [wanted])


def _name_dimensions(graph: ir.Graph, outputs: tuple[Port, ...]) -> None:
    for value, port in zip(graph.outputs, outputs, strict=True):
        value.shape = ir.Shape(port.shape)


def _stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop stack traces, module paths, inferred shapes and doc strings, which do not change what the graph computes."""
    model.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    model.graph.doc_string = ""
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    return model

"""Take the adapter sites out of a graph. Batches without adapters run the result, as fast as the bare backbone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from onnx import GraphProto, ModelProto, NodeProto, helper

from impasto_export.errors import BundleError


def without_adapters(model: ModelProto, kept: Collection[str]) -> ModelProto:
    """`model` with the inputs `kept` alone; the others belong to adapters. It reads the same weights.

    At a site, one Add sums a module's output and the adapters' share. Nodes that read the sum will read the module's
    output instead. Raises BundleError where adapters reach an output in any other way.
    """
    graph = model.graph
    adapters = {value.name for value in graph.input} - {*kept}
    outputs = [value.name for value in graph.output]
    nodes = _leading_to(outputs, list(_cut(graph, adapters)))
    read = {value for node in nodes for value in node.input}
    if adapters & read or not {*outputs} <= {value for node in nodes for value in node.output}:
        raise BundleError(f"{graph.name}: adapters cannot be taken out of this graph; export its architecture again")
    bare = ModelProto()
    bare.CopyFrom(model)
    bare.graph.CopyFrom(
        helper.make_graph(
            nodes,
            graph.name,
            [value for value in graph.input if value.name in kept],
            list(graph.output),
            [value for value in graph.initializer if value.name in read],
        )
    )
    return bare


def _cut(graph: GraphProto, adapters: set[str]) -> Iterator[NodeProto]:
    """The nodes that adapters no longer reach, in their order."""
    constant = {value.name for value in graph.initializer}
    outputs = {value.name for value in graph.output}
    reached, instead = set(adapters), dict[str, str]()
    for node in graph.node:
        inputs = [instead.get(value, value) for value in node.input]
        own = [value for value in inputs if value not in reached]
        if len(own) == len(inputs):
            yield _reading(node, inputs)
        elif node.op_type == "Add" and own and own[0] not in constant:
            instead[node.output[0]] = own[0]
            if node.output[0] in outputs:
                yield helper.make_node("Identity", own, list(node.output))
        else:
            reached.update(node.output)


def _reading(node: NodeProto, inputs: Sequence[str]) -> NodeProto:
    copied = NodeProto()
    copied.CopyFrom(node)
    copied.input[:] = inputs
    return copied


def _leading_to(outputs: Sequence[str], nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """The nodes that the outputs depend on, in their order."""
    wanted, found = set(outputs), list[NodeProto]()
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted.update(node.input)
            found.append(node)
    return found[::-1]

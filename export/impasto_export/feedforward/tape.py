"""Follow a picture through an ONNX graph: list the convs it passes, with the padding, norm and activation around each.

Quantised graphs are read as float ones: a weight is the output of its DequantizeLinear.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from impasto_export.errors import CheckpointError

# Operators that pass their input on, perhaps quantised or reshaped.
SAME = ("QuantizeLinear", "DequantizeLinear", "Transpose", "Identity", "Cast", "Reshape")
MEANS = ("GlobalAveragePool", "ReduceMean")
ARITHMETIC = ("Add", "Sub", "Mul", "Pow", "Div")
ENDS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}
# Operators that constants may be computed with; and the most numbers that a ConstantOfShape may have.
COMPUTING = ("Constant", "ConstantOfShape", "Concat", "Slice", "Squeeze", "Unsqueeze", "Gather", *SAME)
MOST = 1 << 16


@dataclass(frozen=True)
class Step:
    """One conv: `weight` and `bias` are names of values. `padding` is the Pad's mode, "" without one; `pads` is its
    width, the same on all sides. `residual`: the input of the previous conv is added to this one's output."""

    weight: str
    bias: str | None
    stride: int
    padding: str
    pads: int
    doubled: bool
    normed: bool = False
    end: str = "none"
    residual: bool = False


class Constants:
    """Values of a graph that depend on no input."""

    def __init__(self, graph: GraphProto) -> None:
        self._held: dict[str, NDArray[Any]] = {}
        self._initializers = {item.name: item for item in graph.initializer}
        self._made = {output: node for node in graph.node for output in node.output}
        self._known = {*self._initializers}
        for node in graph.node:
            if self._known.issuperset(filter(None, node.input)):
                self._known.update(node.output)

    def __call__(self, name: str) -> NDArray[Any] | None:
        """The value of that name; None if it depends on an input."""
        if name not in self._known:
            return None
        if name in self._initializers:
            return numpy_helper.to_array(self._initializers[name])
        if name not in self._held:
            node = self._made[name]
            self._run(node, {given: value for given in node.input if (value := self(given)) is not None})
        return self._held[name]

    def _run(self, node: NodeProto, inputs: dict[str, NDArray[Any]]) -> None:
        large = node.op_type == "ConstantOfShape" and any(prod(map(int, value)) > MOST for value in inputs.values())
        if large or node.op_type not in COMPUTING:
            raise CheckpointError(
                f"{node.name or node.output[0]}: a constant is computed by {node.op_type}, which isn't supported"
            )
        outputs: Any = ReferenceEvaluator(node).run(None, inputs)
        self._held.update(zip(node.output, outputs, strict=True))

    def origin(self, name: str) -> str:
        """The initializer that a value comes from, following first inputs."""
        while name not in self._initializers and name in self._made and self._made[name].input:
            name = self._made[name].input[0]
        return name


def picture(graph: GraphProto) -> str:
    """The input that is a picture: four axes, one of size 3. Raises CheckpointError without one."""
    for item in graph.input:
        sides = [side.dim_value for side in item.type.tensor_type.shape.dim]
        if len(sides) == 4 and 3 in sides[1:]:
            return str(item.name)
    raise CheckpointError(f"{graph.name}: none of its inputs is a picture of three channels")


def play(graph: GraphProto, constants: Constants) -> list[Step]:
    """The graph's convs in order. Raises CheckpointError for a node that no trunk has."""
    return _Play(constants, picture(graph)).steps(graph)


class _Play:
    """The state while following a graph: what lies before the next conv, and the steps so far. `trail`: value -> the
    number of steps before it."""

    def __init__(self, constants: Constants, start: str) -> None:
        self.constants, self.trail = constants, {start: 0}
        self.padding, self.pads, self.doubled = "", 0, False
        self.made: list[Step] = []

    def steps(self, graph: GraphProto) -> list[Step]:
        for node in graph.node:
            given = [name for name in node.input if name in self.trail]
            if given:
                self._take(node, given)
        if not self.made:
            raise CheckpointError(f"{graph.name}: its picture passes no conv")
        return self.made

    def _take(self, node: NodeProto, given: list[str]) -> None:
        match node.op_type:
            case "Pad":
                self._pad(node)
            case "Resize":
                self._resize(node)
            case "Conv":
                self._conv(node)
            case kind if kind in MEANS:
                self._last(normed=True)
                return
            case kind if kind in ENDS:
                self._last(end=ENDS[kind])
            case "Add" if len({*given}) == 2:
                self._add(node, given)
            case kind if kind not in (*SAME, *ARITHMETIC):
                raise CheckpointError(f"{node.name or node.output[0]}: {kind}, which no trunk has")
        self.trail |= dict.fromkeys(node.output, len(self.made))

    def _pad(self, node: NodeProto) -> None:
        mode = next((helper.get_attribute_value(item) for item in node.attribute if item.name == "mode"), b"constant")
        amounts = self.constants(node.input[1])
        sides = [] if amounts is None else [int(side) for side in amounts if side]
        if len(sides) != 4 or len({*sides}) != 1:
            raise CheckpointError(f"{node.name}: pads by {sides}; the same on every side is expected")
        self.padding, self.pads = mode.decode(), sides[0]

    def _resize(self, node: NodeProto) -> None:
        facts = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        scales = self.constants(node.input[2]) if len(node.input) > 2 else None
        nearest = (facts.get("mode"), facts.get("coordinate_transformation_mode"), facts.get("nearest_mode"))
        by = None if scales is None else sorted(map(float, scales))
        if by == [1, 1, 1, 1]:
            return
        if by != [1, 1, 2, 2] or nearest != (b"nearest", b"asymmetric", b"floor"):
            raise CheckpointError(f"{node.name}: resizes by {by}, {nearest}; nearest and twice is expected")
        self.doubled = True

    def _conv(self, node: NodeProto) -> None:
        facts = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        strides = {*facts.get("strides", [1, 1])}
        own = {*facts.get("pads", [0])} | (
            {1} if facts.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") else {0}
        )
        if len(strides) != 1 or own != {0} or facts.get("group", 1) != 1 or {*facts.get("dilations", [1])} != {1}:
            raise CheckpointError(f"{node.name}: {facts}: a conv without pads, groups or dilations is expected")
        bias = node.input[2] if len(node.input) > 2 else None
        self.made.append(Step(node.input[1], bias, strides.pop(), self.padding, self.pads, self.doubled))
        self.padding, self.pads, self.doubled = "", 0, False

    def _add(self, node: NodeProto, given: list[str]) -> None:
        early, late = sorted(self.trail[name] for name in given)
        if late - early == 2 and late == len(self.made):
            self._last(residual=True)
        elif early != late:
            raise CheckpointError(f"{node.name}: adds a value from {late - early} convs back; two are expected")

    def _last(self, **changed: Any) -> None:
        if self.made:
            self.made[-1] = replace(self.made[-1], **changed)


def epsilons(graph: GraphProto, constants: Constants) -> set[float]:
    """The numbers that are added to variances, that is to means of the picture's values; rounded to six digits, as
    float32 has no more."""
    means: set[str] = set()
    found: set[float] = set()
    for node in graph.node:
        if node.op_type in MEANS or (node.op_type in SAME and means.intersection(node.input)):
            means.update(node.output)
        if node.op_type == "Add" and means.intersection(node.input):
            found.update(float(f"{float(value.reshape(())):.6g}") for value in _numbers(node, constants))
    return found


def white(graph: GraphProto, constants: Constants) -> float | None:
    """The value of a white pixel, if a quantised graph rounds the picture to 256 steps; else None."""
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] == picture(graph):
            (step,) = _numbers(node, constants)[:1]
            return float(f"{255 * float(step.reshape(())):.4g}")
    return None


def _numbers(node: NodeProto, constants: Constants) -> list[NDArray[Any]]:
    values = [constants(name) for name in node.input]
    return [value for value in values if value is not None and value.size == 1]

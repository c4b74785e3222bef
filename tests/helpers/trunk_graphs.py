"""ONNX graphs of a trunk as other converters write them: torch's export with tables of γ and β, and a quantised one of
TensorFlow's with an embedding, in NHWC."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tests.helpers.trunks import BATCH_EPSILON, EPSILON, Place, Trunk, embedding_layer, model, rows_of

Array = NDArray[np.float32]


class Spelled:
    """A graph under construction: nodes and tensors in order."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.held: dict[str, Any] = {}

    def add(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        made = name or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [made], name=made, **attributes))
        return made

    def tensor(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.held[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
        return name

    def convolved(self, place: Place, x: str, weight: list[str], mode: str) -> str:
        if place.doubled:
            scales = self.tensor("twice", [1, 1, 2, 2])
            how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            x = self.add("Resize", x, "", scales, mode="nearest", **how)
        side = place.kernel // 2
        pads = self.tensor(f"pads{side}", [0, 0, side, side, 0, 0, side, side], np.int64)
        x = self.add("Pad", x, pads, mode=mode)
        return self.add("Conv", x, *weight, strides=[place.stride] * 2)

    def normed(self, x: str, gamma: str, beta: str, epsilon: str) -> str:
        axes = self.tensor("axes", [2, 3], np.int64)
        apart = self.add("Sub", x, self.add("ReduceMean", x, axes))
        variance = self.add("ReduceMean", self.add("Mul", apart, apart), axes)
        deviation = self.add("Sqrt", self.add("Add", variance, epsilon))
        return self.add("Add", self.add("Mul", self.add("Div", apart, deviation), gamma), beta)

    def trunk(self, trunk: Trunk, x: str, layer: Any, mode: str = "reflect") -> str:
        """The whole trunk from x; `layer(place, x)` makes a place's conv and norm."""
        before, last = x, len(trunk.places) - 1
        for at, place in enumerate(trunk.places):
            half = place.name.startswith("residual") and place.name[-1]
            before = x if half == "1" else before
            x = layer(place, x)
            if half == "2":
                x = self.add("Add", before, x)
            elif at < last:
                x = self.add("Relu", x)
        return self.add("Sigmoid", x, name="stylized")


def tables(trunk: Trunk, styles: Array, mode: str = "reflect", end: str = "Sigmoid") -> onnx.ModelProto:
    """A net of many styles as torch exports it: its inputs are `image` and a weight for each style."""
    made, rows = Spelled(), rows_of(trunk, styles)
    epsilon = made.tensor("epsilon", EPSILON)
    axis, first = made.tensor("axis", [1], np.int64), made.tensor("first", [0], np.int64)
    column, wide = made.add("Unsqueeze", "style_weights", axis), made.tensor("wide", [1, -1, 1, 1], np.int64)

    def mixed(name: str, table: Array) -> str:
        weighted = made.add("Mul", column, made.tensor(name, table))
        return made.add("Reshape", made.add("ReduceSum", weighted, first, keepdims=0), wide)

    def layer(place: Place, x: str) -> str:
        weight = made.tensor(f"{place.name}.w", trunk.weight(place))
        gamma, beta = (
            mixed(f"{place.name}.norm.{part}", table)
            for part, table in zip(("gamma", "beta"), rows[place.name], strict=True)
        )
        return made.normed(made.convolved(place, x, [weight], mode), gamma, beta, epsilon)

    made.trunk(trunk, "image", layer, mode)
    made.nodes[-1].op_type = end
    shape = [1, 3, "h", "w"]
    inputs = {"image": shape, "style_weights": [len(styles)]}
    return model(made.nodes, list(made.held.values()), inputs, {"stylized": shape})


def quantised(weight: Array) -> tuple[NDArray[np.int8], Array]:
    """The weight as int8 [out, …], and the scale of each output."""
    scale = np.abs(weight).reshape(len(weight), -1).max(1) / 127
    return np.round(weight / scale.reshape(-1, 1, 1, 1)).astype(np.int8), scale.astype(np.float32)


def dequantised(weight: Array) -> Array:
    """The weight after quantisation and back."""
    integers, scale = quantised(weight)
    return integers * scale.reshape(-1, 1, 1, 1)


def embedded(trunk: Trunk, layer: tuple[Array, Array] | None = None, side: int = 32) -> onnx.ModelProto:
    """Arbitrary stylisation as TensorFlow's converters write it: inputs are a picture in NHWC, of fixed size, and an
    embedding [1, 1, 1, D]; weights are int8, fixed norms are folded."""
    made = Spelled()
    weights, biases = layer or embedding_layer(trunk)
    rows = rows_of(trunk, np.column_stack([weights, biases]).T.astype(np.float32))
    epsilon = made.tensor("epsilon", np.full((1, 1, 1, 1), EPSILON))
    embedding = made.add("Transpose", "embedding", perm=[0, 3, 1, 2])
    steps = [made.tensor("steps", 1 / 255), made.tensor("lowest", -128, np.int8)]
    rounded = made.add("QuantizeLinear", "content_image", *steps)
    x = made.add("Transpose", made.add("DequantizeLinear", rounded, *steps), perm=[0, 3, 1, 2])

    def weight(name: str, value: Array) -> str:
        integers, scale = quantised(value)
        given = [made.tensor(name, integers, np.int8), made.tensor(f"{name}/scale", scale)]
        return made.add("DequantizeLinear", *given, made.tensor(f"{name}/zero", np.zeros(len(scale)), np.int8), axis=0)

    def style(place: Place, part: str, table: Array) -> str:
        name = f"style_params/{place.scope}/StyleNorm/{part}"
        given = [weight(f"{name}/weights", table[:-1].T[:, :, None, None]), made.tensor(f"{name}/biases", table[-1])]
        return made.add("Conv", embedding, *given)

    def conv(place: Place, x: str) -> str:
        own = trunk.weight(place)
        at = trunk.places.index(place)
        if at < trunk.fixed:
            norm = trunk.norms[at]
            gain = (norm.variance + BATCH_EPSILON).rsqrt()
            own, bias = own * gain.reshape(-1, 1, 1, 1).numpy(), (norm.beta - norm.mean * gain).numpy()
            given = [weight(f"{place.scope}/weights", own), made.tensor(f"{place.scope}/bias", bias)]
            return made.convolved(place, x, given, "reflect")
        x = made.convolved(place, x, [weight(f"{place.scope}/weights", own)], "reflect")
        gamma, beta = (
            style(place, part, table) for part, table in zip(("Conv_1", "Conv"), rows[place.name], strict=True)
        )
        return made.normed(x, gamma, beta, epsilon)

    made.trunk(trunk, x, conv)
    made.nodes[-1].output[0] = "painted"
    made.add("Transpose", "painted", name="stylized", perm=[0, 2, 3, 1])
    shape = [1, side, side, 3]
    inputs = {"content_image": shape, "embedding": [1, 1, 1, weights.shape[1]]}
    return model(made.nodes, list(made.held.values()), inputs, {"stylized": shape})

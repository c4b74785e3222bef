"""Make an ONNX graph from a Net, with onnx.helper. Tensors become placeholders, which `splice.point` points into a
file; the rest of the graph takes about ten kilobytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from impasto_export.feedforward.net import Array, Conv, Input, Join, Keep, Net, Output, Pool, Residual

OPSET, IR = 18, 10
PICTURE, STYLE, PAINTED = "picture", "style", "painted"
PICTURES = ("lanes", 3, "H", "W")
FLOAT = TensorProto.FLOAT
# Weights of red, green and blue in a pixel's brightness, as in torchvision.
BRIGHTNESS = (0.2989, 0.587, 0.114)
# Axes of height and width.
SIDES = (2, 3)


class Builder:
    """A graph under construction: nodes in order, and their constants. Methods take and return names of values."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node; returns its output's name."""
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def split(self, x: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Split x along the axis into parts of these sizes."""
        name = f"split_{len(self.nodes)}"
        names = [f"{name}_{number}" for number in range(len(sizes))]
        given = [x, self.constant(sizes, np.int64)]
        self.nodes.append(helper.make_node("Split", given, names, name=name, axis=axis))
        return names

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """A small number or list, stored in the graph itself; equal ones share one name."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._constants[key] = f"constant_{len(self._constants)}"
            self.initializers[name] = numpy_helper.from_array(array, name)
        return self._constants[key]

    def tensor(self, name: str, array: Array) -> str:
        """A placeholder of the array's shape; its data is in the file of weights."""
        self.initializers.setdefault(name, placeholder(name, array.shape))
        return name

    def model(
        self,
        name: str,
        inputs: Mapping[str, Sequence[int | str]],
        outputs: Mapping[str, str],
        shape: Sequence[int | str] = PICTURES,
    ) -> ModelProto:
        """The finished model. `inputs`: name -> float32 shape; `outputs`: name -> value, all of `shape`."""
        for output, value in outputs.items():
            self.nodes.append(helper.make_node("Identity", [value], [output], name=output))
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(key, FLOAT, list(shape)) for key, shape in inputs.items()],
            [helper.make_tensor_value_info(key, FLOAT, list(shape)) for key in outputs],
            list(self.initializers.values()),
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="impasto"
        )


def placeholder(name: str, shape: Sequence[int]) -> TensorProto:
    """A tensor without data, which `splice.point` points into a file."""
    item = TensorProto(name=name, data_type=FLOAT, dims=shape)
    item.data_location = TensorProto.EXTERNAL
    return item


def transform(net: Net) -> ModelProto:
    """The graph from picture [lanes, 3, H, W] RGB 0–1, and style [lanes, N] if the net has vectors, to painted
    [lanes, 3, H, W]."""
    made = Builder()
    styles = rows(made, net, STYLE) if net.vector_size else {}
    x = entered(made, net.input, PICTURE)
    x = padded(made, x, "reflect", (net.pad, net.pad))
    kept: dict[str, str] = {}
    for block in net.blocks:
        match block:
            case Keep(name):
                kept[name] = x
            case Join(name, smaller):
                x = made.add("Concat", between(made, x) if smaller else x, kept[name], axis=1)
            case Pool():
                x = made.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
            case _:
                x = ran(made, net, block, x, styles)
    style: dict[str, Sequence[int | str]] = {STYLE: ("lanes", net.vector_size)} if net.vector_size else {}
    return made.model(net.name, {PICTURE: PICTURES, **style}, {PAINTED: left(made, net.output, x)})


def rows(made: Builder, net: Net, style: str) -> dict[str, tuple[str, str]]:
    """Conditioned conv -> its γ and β [lanes, C, 1, 1], split from the vectors [lanes, N]."""
    sizes = [net.channels(conv) for conv in net.conditioned for _ in "γβ"]
    parts = made.split(style, sizes, axis=1)
    wide = [made.add("Unsqueeze", part, made.constant(SIDES, np.int64)) for part in parts]
    return {conv.name: (wide[2 * at], wide[2 * at + 1]) for at, conv in enumerate(net.conditioned)}


def ran(made: Builder, net: Net, block: Conv | Residual, x: str, styles: Mapping[str, tuple[str, str]]) -> str:
    if isinstance(block, Conv):
        return activated(made, block, normed(made, net, block, convolved(made, net, block, x), styles))
    changed = ran(made, net, block.second, ran(made, net, block.first, x, styles), styles)
    kept = ran(made, net, block.projection, x, styles) if block.projection else x
    return made.add("Add", cropped(made, kept, net.crop(block)), changed)


def convolved(made: Builder, net: Net, conv: Conv, x: str) -> str:
    """Upsampling, padding and convolution, without the norm."""
    kernel = net.kernel(conv)
    names = [f"{conv.name}.weight", f"{conv.name}.bias"]
    if conv.upsampling == "transposed":
        return _transposed(made, net, conv, x)
    if conv.upsampling == "nearest":
        x = doubled(made, x)
    x = padded(made, x, "reflect" if conv.padding == "reflect" else "constant", conv.pads(kernel))
    tensors = [made.tensor(name, net.tensors[name]) for name in names if name in net.tensors]
    return made.add("Conv", x, *tensors, kernel_shape=[kernel] * 2, strides=[conv.stride] * 2)


def _transposed(made: Builder, net: Net, conv: Conv, x: str) -> str:
    kernel, weight, bias = net.kernel(conv), f"{conv.name}.weight", f"{conv.name}.bias"
    before, after = conv.pads(kernel)
    turned = made.add("Transpose", made.tensor(weight, net.tensors[weight]), perm=[1, 0, 2, 3])
    rest = [made.tensor(bias, net.tensors[bias])] if bias in net.tensors else []
    return made.add(
        "ConvTranspose", x, turned, *rest, kernel_shape=[kernel] * 2, strides=[2, 2], pads=[before] * 2 + [after] * 2
    )


def normed(made: Builder, net: Net, conv: Conv, x: str, styles: Mapping[str, tuple[str, str]]) -> str:
    if conv.norm.statistics == "none":
        return x
    channels = net.channels(conv)
    own = [f"{conv.name}.scale", f"{conv.name}.shift"]
    if conv.norm.conditioned or own[0] not in net.tensors:
        scale, shift = made.constant([1.0] * channels), made.constant([0.0] * channels)
    else:
        scale, shift = (made.tensor(name, net.tensors[name]) for name in own)
    x = made.add("InstanceNormalization", x, scale, shift, epsilon=conv.norm.epsilon)
    if not conv.norm.conditioned:
        return x
    gamma, beta = styles[conv.name]
    return made.add("Add", made.add("Mul", x, gamma), beta)


def activated(made: Builder, conv: Conv, x: str) -> str:
    return made.add("Relu", x) if conv.activation == "relu" else x


def padded(made: Builder, x: str, mode: str, pads: tuple[int, int]) -> str:
    before, after = pads
    if not before and not after:
        return x
    amounts = [0, 0, before, before, 0, 0, after, after]
    return made.add("Pad", x, made.constant(amounts, np.int64), mode=mode)


def doubled(made: Builder, x: str) -> str:
    """Nearest upsampling by two: every pixel four times."""
    scales = made.constant([1.0, 1.0, 2.0, 2.0])
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return made.add("Resize", x, "", scales, mode="nearest", **how)


def between(made: Builder, x: str) -> str:
    """Bilinear upsampling by two."""
    scales = made.constant([1.0, 1.0, 2.0, 2.0])
    return made.add("Resize", x, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")


def cropped(made: Builder, x: str, by: int) -> str:
    if not by:
        return x
    start, end = made.constant([by, by], np.int64), made.constant([-by, -by], np.int64)
    return made.add("Slice", x, start, end, made.constant(SIDES, np.int64))


def entered(made: Builder, facts: Input, x: str) -> str:
    """The network's input from a picture of RGB 0–1."""
    x = reordered(made, x) if facts.order == "BGR" else x
    x = made.add("Mul", x, made.constant(facts.scale)) if facts.scale != 1 else x
    return made.add("Sub", x, colours(made, facts.mean)) if any(facts.mean) else x


def left(made: Builder, facts: Output, x: str) -> str:
    """The picture in RGB 0–1, not clamped, from the last block's output."""
    x = made.add(facts.activation.capitalize(), x) if facts.activation != "none" else x
    x = made.add("Mul", x, made.constant(facts.scale / facts.white)) if facts.scale != facts.white else x
    added = [(mean + facts.offset) / facts.white for mean in facts.mean]
    x = made.add("Add", x, colours(made, added)) if any(added) else x
    x = reordered(made, x) if facts.order == "BGR" else x
    return stretched(made, x, facts.contrast) if facts.contrast != 1 else x


def stretched(made: Builder, x: str, contrast: float) -> str:
    """Contrast: every value's distance from its picture's mean brightness, times `contrast`."""
    grey = made.add("ReduceSum", made.add("Mul", x, colours(made, BRIGHTNESS)), made.constant([1], np.int64))
    mean = made.add("ReduceMean", grey, made.constant(SIDES, np.int64))
    rest = made.add("Mul", mean, made.constant(1 - contrast))
    return made.add("Add", made.add("Mul", x, made.constant(contrast)), rest)


def reordered(made: Builder, x: str) -> str:
    """The channels in reverse order: RGB to BGR and back."""
    return made.add("Gather", x, made.constant([2, 1, 0], np.int64), axis=1)


def colours(made: Builder, values: Sequence[float]) -> str:
    return made.constant(np.asarray(values, np.float32).reshape(1, 3, 1, 1))

"""Read nets of jcjohnson's fast-neural-style from Torch7 files (`.t7`); the layers in the file tell everything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from impasto_export.errors import CheckpointError
from impasto_export.feedforward.assembly import (
    Branch,
    Doubled,
    Kernel,
    Layer,
    Misplaced,
    Picture,
    Relu,
    Trained,
    assembled,
)
from impasto_export.feedforward.found import Found, Said
from impasto_export.feedforward.johnson import INPUT, MEAN, OUTPUT
from impasto_export.feedforward.net import Array, Conv, Net, Output, Residual
from impasto_export.feedforward.source import Source
from impasto_export.feedforward.torch7 import Module

LAYOUT = "jcjohnson's fast-neural-style (Torch7)"
MODEL, OPTIONS = "model", "opt"
VGG = "vgg"
# Layers that do nothing after training.
IDLE = ("Identity", "TotalVariation", "Dropout", "Contiguous", "Copy")
CONVOLUTIONS = ("SpatialConvolution", "SpatialConvolutionMM")


class _Problem(Exception):
    """A layer, or a setting of one, that isn't served."""


def recognises(source: Source) -> bool:
    return _model(source) is not None


def _model(source: Source) -> Module | None:
    """The net: the file's content itself, or the `model` in its table; None for anything else."""
    held = source.torch7.get(MODEL) if isinstance(source.torch7, dict) else source.torch7
    return held if isinstance(held, Module) and held.kind == "Sequential" else None


def read(source: Source, said: Said) -> Found:
    """The net. Raises CheckpointError that names the layer that isn't served, or is out of place."""
    said.only(source)
    model = _model(source)
    assert model is not None  # what `recognises` found
    preprocessing = _preprocessing(source)
    try:
        layers = [module for module in model.modules if module.kind not in IDLE]
        pad, layers = _once(layers)
        output, layers = _ended(layers)
        made = assembled([*_layers(layers, "")])
        net = Net("johnson", INPUT, pad, tuple(made.blocks), output, made.tensors)
        _check_size(net)
    except (_Problem, Misplaced) as error:
        raise CheckpointError(f"{source}: read as {LAYOUT}: {error}; such a net is not served") from None
    return Found(source.name, net, _told(net, preprocessing))


def _preprocessing(source: Source) -> str:
    """How it is known that the net takes VGG's input. Raises CheckpointError where its options say otherwise."""
    options = source.torch7.get(OPTIONS) if isinstance(source.torch7, dict) else None
    told = options.get("preprocessing") if isinstance(options, dict) else None
    if told not in (None, VGG):
        raise CheckpointError(f"{source}: opt.preprocessing is {told!r}; nets trained with {VGG!r} are served")
    return "opt.preprocessing" if told else "jcjohnson's default"


def _once(layers: list[Module]) -> tuple[int, list[Module]]:
    """Pixels that the net reflects once, and the layers after that: its first layer then pads, and so does its second,
    a convolution."""
    if len(layers) < 2 or layers[0].kind != "SpatialReflectionPadding" or not _number(layers[1], "padW", 0):
        return 0, layers
    return _sides(layers[0]), layers[1:]


def _ended(layers: list[Module]) -> tuple[Output, list[Module]]:
    """The output, and the layers without the two that make it."""
    kinds = [module.kind for module in layers[-2:]]
    if kinds == ["Tanh", "MulConstant"]:
        scale = layers[-1].attributes.get("constant_scalar")
        if isinstance(scale, float) and scale > 0:
            return Output("tanh", scale=scale, order=OUTPUT.order, mean=MEAN, white=OUTPUT.white), layers[:-2]
    raise _Problem(f"it ends with {' and '.join(kinds)}; Tanh and MulConstant are expected")


def _layers(modules: list[Module], where: str) -> Iterator[Layer]:
    """The layers of these modules; `where` is the prefix of their names."""
    waiting = 0
    for at, module in enumerate(modules):
        name = f"{where}{at}"
        if module.kind == "SpatialReflectionPadding":
            waiting = _sides(module)
            continue
        if waiting and module.kind not in CONVOLUTIONS:
            raise _Problem(f"layer {name}, {module.name}, follows a padding; only a convolution can")
        yield _layer(module, name, waiting)
        waiting = 0


def _layer(module: Module, name: str, reflected: int) -> Layer:
    match module.kind:
        case "SpatialConvolution" | "SpatialConvolutionMM":
            return _convolution(module, name, reflected)
        case "SpatialFullConvolution":
            return _transposed(module, name)
        case "InstanceNormalization":
            return Picture(_tensor(module, name, "weight"), _tensor(module, name, "bias"), _number(module, "eps", 1e-5))
        case "SpatialBatchNormalization":
            return _trained(module, name)
        case "ReLU":
            return Relu()
        case "SpatialUpSamplingNearest" if _number(module, "scale_factor") == 2:
            return Doubled()
        case "Sequential":
            return _branch(module, name)
    raise _Problem(f"layer {name} is {module.name}")


def _convolution(module: Module, name: str, reflected: int) -> Kernel:
    (out, into), (kernel, stride, pad) = (
        _sizes(module, "nOutputPlane", "nInputPlane"),
        _sizes(module, "kW", "dW", "padW"),
    )
    if [kernel, stride, pad] != [*_sizes(module, "kH", "dH", "padH")]:
        raise _Problem(f"layer {name} differs between the two directions")
    paddings: Mapping[tuple[int, int], Literal["reflect", "zero", "valid"]] = {
        (kernel // 2, 0): "reflect",
        (0, kernel // 2): "zero",
        (0, 0): "valid",
    }
    padding = paddings.get((reflected, pad))
    if padding is None or kernel % 2 == 0 or stride not in (1, 2):
        raise _Problem(
            f"layer {name}: kernel {kernel}, stride {stride}, padding {pad} after a reflection of {reflected}"
        )
    weight = _tensor(module, name, "weight")
    if weight.size != out * into * kernel**2:
        raise _Problem(f"layer {name}: its weight is {list(weight.shape)}; {[out, into, kernel, kernel]} is expected")
    conv = Conv(name, stride, padding, activation="none")
    return Kernel(conv, weight.reshape(out, into, kernel, kernel), _bias(module, name))


def _transposed(module: Module, name: str) -> Kernel:
    weight = _tensor(module, name, "weight")
    told = _sizes(module, "kW", "dW", "padW", "adjW", "kH", "dH", "padH", "adjH")
    if told != (3, 2, 1, 1, 3, 2, 1, 1) or weight.ndim != 4:
        raise _Problem(f"layer {name}: kernel, stride, padding, adjustment {told}; only 3×3 with stride 2 is known")
    conv = Conv(name, 1, "zero", "transposed", activation="none")
    return Kernel(conv, weight.transpose(1, 0, 2, 3).copy(), _bias(module, name))


def _trained(module: Module, name: str) -> Trained:
    """A norm of fixed statistics. Older versions saved 1 / √(variance + ε) instead of the variance."""
    epsilon, held = _number(module, "eps", 1e-5), module.attributes
    mean = _tensor(module, name, "running_mean")
    if isinstance(held.get("running_var"), np.ndarray):
        variance = _tensor(module, name, "running_var")
    else:
        variance = (_tensor(module, name, "running_std").astype(np.float64) ** -2 - epsilon).astype(np.float32)
    ones = np.ones_like(mean)
    affine = isinstance(held.get("weight"), np.ndarray)
    scale, shift = (
        _tensor(module, name, role) if affine else one for role, one in (("weight", ones), ("bias", 0 * ones))
    )
    return Trained(scale, shift, mean, variance, epsilon)


def _branch(module: Module, name: str) -> Branch:
    """A residual block: Sequential{ConcatTable{Sequential, ShaveImage or Identity}, CAddTable}."""
    table = module.modules[0] if [inner.kind for inner in module.modules] == ["ConcatTable", "CAddTable"] else None
    if table is None or [inner.kind for inner in table.modules] not in (
        ["Sequential", "ShaveImage"],
        ["Sequential", "Identity"],
    ):
        raise _Problem(f"layer {name}, a nested Sequential, is not a residual block")
    inner, skip = table.modules
    layers = tuple(_layers(inner.modules, f"{name}."))
    taken = sum(
        layer.weight.shape[2] // 2 for layer in layers if isinstance(layer, Kernel) and layer.conv.padding == "valid"
    )
    cropped = int(_number(skip, "size")) if skip.kind == "ShaveImage" else 0
    if taken != cropped:
        raise _Problem(
            f"layer {name}: its convolutions take off {taken} pixels, but its skip connection crops {cropped}"
        )
    return Branch(layers)


def _sides(module: Module) -> int:
    sides = {_number(module, f"pad_{side}") for side in "lrtb"}
    if len(sides) != 1:
        raise _Problem(f"a {module.name} pads its sides differently: {sorted(sides)}")
    return int(sides.pop())


def _sizes(module: Module, *names: str) -> tuple[int, ...]:
    """The attributes as whole numbers. Old files leave out paddings of 0."""
    return tuple(int(_number(module, name, 0 if name.startswith(("pad", "adj")) else None)) for name in names)


def _number(module: Module, name: str, default: float | None = None) -> float:
    value = module.attributes.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise _Problem(f"a {module.name} has the {name} {value!r}")
    return float(value)


def _tensor(module: Module, name: str, role: str) -> Array:
    value: Any = module.attributes.get(role)
    if not isinstance(value, np.ndarray) or not value.size or value.dtype.kind != "f":
        raise _Problem(f"layer {name}, {module.name}, has no {role}")
    if not np.isfinite(value).all():
        raise _Problem(f"layer {name}, {module.name}: its {role} holds NaN or infinity")
    return np.asarray(value, np.float32)


def _bias(module: Module, name: str) -> Array | None:
    held = isinstance(module.attributes.get("bias"), np.ndarray)
    return _tensor(module, name, "bias") if held else None


def _check_size(net: Net) -> None:
    halved = sum(conv.stride == 2 for conv in net.convs)
    doubled = sum(conv.upsampling != "none" for conv in net.convs)
    if halved != doubled:
        raise _Problem(f"it halves {halved} times and doubles {doubled} times")
    scale, taken = 1, 0
    for block in net.blocks:
        convs = block.convs if isinstance(block, Residual) else (block,) if isinstance(block, Conv) else ()
        for conv in convs:
            scale = scale // 2 if conv.upsampling != "none" else scale
            taken += scale * (net.kernel(conv) // 2) if conv.padding == "valid" else 0
            scale *= conv.stride
    if taken != net.pad:
        raise _Problem(f"its convolutions take off {taken} pixels on every side, but it pads by {net.pad}")


def _told(net: Net, preprocessing: str) -> dict[str, str]:
    paddings = sorted({conv.padding for conv in net.convs})
    norms = {f"{conv.norm.statistics}, epsilon {conv.norm.epsilon:g}" for conv in net.convs if conv.norm.epsilon}
    once = f"reflect, {net.pad} pixels once; then " if net.pad else ""
    return {
        "padding": f"{once}{', '.join(paddings)} (its layers)",
        "norm": f"{'; '.join(sorted(norms)) or 'of its training, folded into convolutions'} (its layers)",
        "upsampling": f"{', '.join(sorted({conv.upsampling for conv in net.convs} - {'none'}))} (its layers)",
        "input": f"BGR 0-255 - {MEAN} ({preprocessing})",
        "output": f"tanh * {net.output.scale:g} + {MEAN}, BGR 0-255 (its layers; {preprocessing})",
    }

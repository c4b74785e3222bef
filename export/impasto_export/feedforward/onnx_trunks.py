"""Read trunks from ONNX files: Magenta's arbitrary stylisation, whose styles are embeddings, and nets of many styles,
whose γ and β are tables with a row for each style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto

from impasto_export.errors import CheckpointError
from impasto_export.feedforward import predictor, tape, trunk
from impasto_export.feedforward.found import Expand, Found, Predictor, Said
from impasto_export.feedforward.net import Array, Conv, Input, Net, Norm, Output, Residual
from impasto_export.feedforward.source import Source
from impasto_export.feedforward.tape import Constants, Step
from impasto_export.feedforward.trunk import Padding

# A predictor of this name beside its transform is found without an option.
TRANSFORM, PREDICTOR = "arbitrary_transform.onnx", "arbitrary_predict.onnx"
WEIGHTS, GAMMA, BETA = "/weights", "/StyleNorm/Conv_1/weights", "/StyleNorm/Conv/weights"
MODES = {"reflect": "reflect", "constant": "zero"}


def recognises(source: Source) -> bool:
    return source.model is not None


def read(source: Source, said: Said) -> Found:
    """The net and its styles. Raises CheckpointError for a graph that isn't a trunk's, naming the difference."""
    assert source.model is not None, "an ONNX file was recognised"
    if said.input_scale is not None and not 0 < said.input_scale < math.inf:
        raise CheckpointError(f"--input-scale: got {said.input_scale}; the value of white is expected, 1 or 255")
    graph, place = source.model.graph, str(source)
    constants = Constants(graph)
    try:
        steps = tape.play(graph, constants)
        white = tape.white(graph, constants)
        net = _net(place, steps, tape.epsilons(graph, constants), constants, white or said.input_scale or 1.0)
    except CheckpointError as error:
        raise CheckpointError(f"{place} is not a graph of a known net: {error}") from None
    names = [constants.origin(step.weight) for step in steps]
    scopes = [name for name, conv in zip(names, net.convs, strict=True) if conv.norm.conditioned]
    expand, vectors = _expand(graph, constants, scopes), _vectors(source, scopes)
    if not vectors and expand is None:
        raise CheckpointError(f"{place}: it has neither tables of γ and β nor linear layers from an embedding to them")
    said.only(place, *([] if white else ["input_scale"]), *(["predictor"] if expand else []))
    predicting, note = _predictor(source.place, said) if expand else (None, {})
    return Found(
        name=source.place.stem,
        net=net,
        told={**trunk.told(net), **_told(net, said, white, _quantised(graph)), **note},
        vectors=vectors,
        expand=expand,
        predictor=predicting,
    )


def _told(net: Net, said: Said, white: float | None, quantised: bool) -> dict[str, str]:
    by_file = "the graph's"
    assumed = "as its output; the graph doesn't tell, --input-scale says otherwise"
    how = "as the graph rounds it" if white else "as was said" if said.input_scale else assumed
    fixed = len(net.conditioned) < len(net.convs)
    return {
        "padding": f"{net.convs[0].padding}, {by_file}",
        "epsilon": f"{net.convs[-1].norm.epsilon:g}, {by_file}",
        "upsampling": f"nearest, {by_file}",
        "input": f"RGB 0-{net.input.scale:g}, {how}",
        "output": f"{net.output.activation}, {by_file}",
        **({"fixed norms": "folded into their convs"} if fixed else {}),
        **({"weights": "int8 in the graph, float here"} if quantised else {}),
    }


def _net(place: str, steps: Sequence[Step], epsilons: set[float], constants: Constants, scale: float) -> Net:
    residuals = sum(step.residual for step in steps)
    names = trunk.names(residuals)
    if len(names) != len(steps):
        raise CheckpointError(
            f"it has {len(steps)} convs and {residuals} residual blocks; {len(names)} convs are expected"
        )
    modes = {step.padding for step in steps}
    if len(modes) != 1 or not modes <= MODES.keys():
        raise CheckpointError(f"its convs are padded by {sorted(modes)}; one of {', '.join(MODES)} is expected")
    if len(epsilons) != 1:
        raise CheckpointError(f"its norms have ε {sorted(epsilons)}; the same one is expected for all")
    (epsilon,) = epsilons
    norms = {
        name: Norm("instance", epsilon, conditioned=True) if step.normed else Norm()
        for name, step in zip(names, steps, strict=True)
    }
    net = trunk.named(
        Net(
            name="",
            input=Input(scale),
            pad=0,
            blocks=trunk.blocks(residuals, cast(Padding, MODES[modes.pop()]), norms.__getitem__),
            output=Output("sigmoid"),
            tensors={
                key: tensor
                for name, step in zip(names, steps, strict=True)
                for key, tensor in _tensors(name, step, constants).items()
            },
        )
    )
    trunk.check(place, net)
    seconds = {block.second.name for block in net.blocks if isinstance(block, Residual)}
    for conv, step in zip(net.convs, steps, strict=True):
        _check(net, conv, step, conv.name in seconds)
    return net


def _check(net: Net, conv: Conv, step: Step, residual: bool) -> None:
    """Raises CheckpointError where a conv differs from the trunk's conv in its place."""
    end = "sigmoid" if conv is net.convs[-1] else conv.activation
    wanted = (conv.stride, net.kernel(conv) // 2, conv.upsampling == "nearest", end, residual)
    found = (step.stride, step.pads, step.doubled, step.end, step.residual)
    if found != wanted:
        facts = "stride, padding, doubled, activation, end of a residual block"
        raise CheckpointError(f"{conv.name} is {found}, but {wanted} is expected ({facts})")


def _tensors(name: str, step: Step, constants: Constants) -> dict[str, Array]:
    """The conv's weight, and its bias if no norm follows: a norm would subtract it again."""
    found = {f"{name}.weight": _array(step.weight, constants)}
    if step.bias is not None and not step.normed:
        found[f"{name}.bias"] = _array(step.bias, constants)
    return found


def _array(name: str, constants: Constants) -> Array:
    value = constants(name)
    if value is None or not np.isfinite(value).all():
        raise CheckpointError(f"{name} is not a constant tensor of finite numbers")
    return np.ascontiguousarray(value, np.float32)


def _expand(graph: GraphProto, constants: Constants, scopes: Sequence[str]) -> Expand | None:
    """The linear layers from an embedding to γ and β, found by their weights' names; None where there are none."""
    convs = {constants.origin(node.input[1]): node for node in graph.node if node.op_type == "Conv"}
    places = [f"style_params/{scope.removesuffix(WEIGHTS)}{layer}" for scope in scopes for layer in (GAMMA, BETA)]
    if any(place not in convs for place in places):
        return None
    weights = [_array(convs[place].input[1], constants) for place in places]
    biases: list[NDArray[np.float32]] = [
        _array(convs[place].input[2], constants) if len(convs[place].input) > 2 else np.zeros(len(weight), np.float32)
        for place, weight in zip(places, weights, strict=True)
    ]
    return Expand(np.concatenate([weight.reshape(len(weight), -1) for weight in weights]), np.concatenate(biases))


def _vectors(source: Source, scopes: Sequence[str]) -> dict[str, Array]:
    """Number -> the style's γ, β, γ, β …, if each weight `NAME.w` has tables `NAME.norm.gamma`, `.beta`; else empty."""
    places = [f"{scope.removesuffix('.w')}.norm.{part}" for scope in scopes for part in ("gamma", "beta")]
    if any(place not in source.shapes for place in places):
        return {}
    tables = [source.tensor(place) for place in places]
    if len({table.shape[:1] for table in tables}) != 1 or any(table.ndim != 2 for table in tables):
        raise CheckpointError(f"{source}: its tables of γ and β have different numbers of styles")
    return {f"{number:02d}": vector for number, vector in enumerate(np.concatenate(tables, axis=1))}


def _quantised(graph: GraphProto) -> bool:
    return any(node.op_type == "DequantizeLinear" for node in graph.node)


def _predictor(place: Path, said: Said) -> tuple[Predictor | None, dict[str, str]]:
    """The predictor that was named, or that lies beside a transform of the usual name; and the fact told of it."""
    beside = place.with_name(PREDICTOR)
    found = said.predictor or (beside if place.name == TRANSFORM and beside.is_file() else None)
    if found is None:
        return None, {"predictor": "none; --predictor names the graph from a style's picture to its embedding"}
    made, how = predictor.read(found), "as named" if said.predictor else "which lies beside it"
    return made, {"predictor": f"{found.name}, {how}, {made.layout}, {made.size} px"}

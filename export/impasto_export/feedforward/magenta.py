"""Read checkpoints of magenta's code, under TensorFlow's names: conditional instance norm of many styles, and arbitrary
stylisation, whose styles are embeddings.

`transformer/contract/conv1/weights` [k, k, in, out], and after each conv one of
  `…/InstanceNorm/{gamma,beta}` [styles, C]: a row for each style
  `…/BatchNorm/{beta,moving_mean,moving_variance}` [C]: fixed, ε 1e-3, folded into the conv
  `style_params/…/StyleNorm/{Conv,Conv_1}/{weights,biases}` [1, 1, D, C]: linear layers from an embedding to β and γ
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from impasto_export.errors import CheckpointError
from impasto_export.feedforward import net as nets
from impasto_export.feedforward import predictor, trunk
from impasto_export.feedforward.found import PADDINGS, Expand, Found, Said
from impasto_export.feedforward.net import Array, Input, Net, Norm, Output
from impasto_export.feedforward.source import Source
from impasto_export.feedforward.trunk import Padding

FIRST = "transformer/contract/conv1/weights"
RESIDUAL = re.compile(r"transformer/residual/residual(\d+)/conv1/weights")
EPSILON, BATCH_EPSILON = 1e-5, 1e-3
# What an optimiser keeps for a variable.
SLOTS = re.compile(r"/(Adam(_\d+)?|Momentum|RMSProp(_\d+)?|ExponentialMovingAverage)$")
NO_PREDICTOR = "none, for InceptionV3 is not read; --predictor names a graph from a style's picture to its embedding"
LAST = "expand.conv3"
BY_CODE = "as magenta's code has it, for the file doesn't say"


@dataclass(frozen=True)
class Variables:
    """The net's variables by name. Raises CheckpointError for one that is missing."""

    source: Source
    by_name: Mapping[str, Array]

    def __getitem__(self, name: str) -> Array:
        if name not in self.by_name:
            raise CheckpointError(f"{self.source}: its tensor {name} is missing; get the file again")
        return self.by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self.by_name


def recognises(source: Source) -> bool:
    return FIRST in _names(source)


def read(source: Source, said: Said) -> Found:
    """The net and its styles. Raises CheckpointError for missing variables, for norms with different numbers of styles,
    and for variables that the trunk has no place for."""
    embedded = f"style_params/{scope(LAST)}/StyleNorm/Conv/weights" in _names(source)
    said.only(source, "padding", "epsilon", *(["predictor"] if embedded else []))
    if said.padding not in (None, *PADDINGS):
        raise CheckpointError(f"--padding: got {said.padding!r}; choose {', '.join(PADDINGS)}")
    if said.epsilon is not None and not 0 < said.epsilon < 1:
        raise CheckpointError(f"--epsilon: got {said.epsilon}; a small number above 0 is expected, such as 1e-5")
    held = Variables(source, {name: source.tensor(own) for name, own in _names(source).items() if _kept(name)})
    residuals = max((int(match[1]) for name in held.by_name if (match := RESIDUAL.fullmatch(name))), default=0)
    padding, epsilon = said.padding or "reflect", said.epsilon or EPSILON
    scopes = {name: scope(name) for name in trunk.names(residuals)}
    norms = {name: _norm(held, scope, epsilon) for name, scope in scopes.items()}
    net = Net(
        name="",
        input=Input(),
        pad=0,
        blocks=trunk.blocks(residuals, cast(Padding, padding), norms.__getitem__),
        output=Output("sigmoid"),
        tensors={key: tensor for name, scope in scopes.items() for key, tensor in _conv(held, name, scope).items()},
    )
    trunk.check(str(source), net)
    net = trunk.named(net)
    _account(held, [scopes[conv.name] for conv in net.convs])
    return Found(
        name=source.place.name.partition(".")[0],
        net=net,
        told={**trunk.told(net), **_told(said, net), **(_predicting(said) if embedded else {})},
        vectors=_vectors(held, [scopes[conv.name] for conv in net.conditioned]),
        expand=_expand(held, [scopes[conv.name] for conv in net.conditioned]),
        predictor=predictor.read(said.predictor) if said.predictor else None,
    )


def _told(said: Said, net: Net) -> dict[str, str]:
    norm = net.convs[-1].norm
    return {
        "padding": f"{net.convs[0].padding}, {'as was said' if said.padding else BY_CODE}; --padding says otherwise",
        "epsilon": f"{norm.epsilon:g}, {'as was said' if said.epsilon else BY_CODE}; --epsilon says otherwise",
        "input": f"RGB 0-1, {BY_CODE}",
        "output": f"sigmoid, {BY_CODE}",
        **({"fixed norms": f"ε {BATCH_EPSILON:g}, {BY_CODE}"} if len(net.conditioned) < len(net.convs) else {}),
    }


def _predicting(said: Said) -> dict[str, str]:
    return {"predictor": f"{said.predictor.name}, as named" if said.predictor else NO_PREDICTOR}


def _names(source: Source) -> dict[str, str]:
    """Variable's name -> the file's own name: some writers append the output's number."""
    return {name.removesuffix(":0"): name for name in source.shapes}


def _kept(name: str) -> bool:
    return name.startswith(("transformer/", "style_params/")) and not SLOTS.search(name)


def scope(name: str) -> str:
    """transformer/residual/residual1/conv2 for residual.1.conv2, transformer/expand/conv1/conv for expand.conv1."""
    part, *rest = name.split(".")
    if part == "residual":
        return f"transformer/residual/residual{rest[0]}/{rest[1]}"
    return f"transformer/{part}/{rest[0]}" + ("/conv" if part == "expand" else "")


def _norm(held: Variables, scope: str, epsilon: float) -> Norm:
    if f"{scope}/InstanceNorm/gamma" in held or f"style_params/{scope}/StyleNorm/Conv_1/weights" in held:
        return Norm("instance", epsilon, conditioned=True)
    if f"{scope}/BatchNorm/moving_mean" in held:
        return Norm()
    problem = f"there is no InstanceNorm, StyleNorm or BatchNorm after {scope}"
    raise CheckpointError(f"{held.source}: {problem}; get the file again")


def _conv(held: Variables, name: str, scope: str) -> dict[str, Array]:
    """The conv's weight [out, in, k, k], and a bias where a fixed norm is folded into it."""
    weight = held[f"{scope}/weights"]
    if weight.ndim != 4:
        raise CheckpointError(f"{held.source}: {scope}/weights is {list(weight.shape)}; [k, k, in, out] is expected")
    weight = np.ascontiguousarray(weight.transpose(3, 2, 0, 1))
    mean = f"{scope}/BatchNorm/moving_mean"
    if mean not in held:
        return {f"{name}.weight": weight}
    shift, variance = (held[f"{scope}/BatchNorm/{key}"] for key in ("beta", "moving_variance"))
    scale = held.by_name.get(f"{scope}/BatchNorm/gamma", np.ones_like(shift))
    weight, bias = nets.folded(weight, scale, shift, held[mean], variance, BATCH_EPSILON)
    return {f"{name}.weight": weight, f"{name}.bias": bias}


def _vectors(held: Variables, scopes: list[str]) -> dict[str, Array]:
    """Number -> the style's γ, β, γ, β …; empty where styles are embeddings."""
    parts = [held.by_name.get(f"{scope}/InstanceNorm/{key}") for scope in scopes for key in ("gamma", "beta")]
    tables = [part for part in parts if part is not None]
    if not tables:
        return {}
    counts = {len(table) for table in tables if table.ndim == 2}
    if len(tables) < len(parts) or len(counts) != 1 or any(table.ndim != 2 for table in tables):
        raise CheckpointError(
            f"{held.source}: its norms have different numbers of styles: {sorted(counts)}; get the file again"
        )
    stacked = np.concatenate(tables, axis=1)
    return {f"{number:02d}": vector for number, vector in enumerate(stacked)}


def _expand(held: Variables, scopes: list[str]) -> Expand | None:
    places = [f"style_params/{scope}/StyleNorm/{layer}" for scope in scopes for layer in ("Conv_1", "Conv")]
    if f"{places[0]}/weights" not in held:
        return None
    weights = [held[f"{place}/weights"] for place in places]
    biases = [held[f"{place}/biases"] for place in places]
    return Expand(
        np.concatenate([weight.reshape(weight.shape[-2:]).T for weight in weights]).astype(np.float32),
        np.concatenate(biases).astype(np.float32),
    )


def _account(held: Variables, scopes: list[str]) -> None:
    """Raises CheckpointError for a variable that belongs to no conv of the trunk."""
    known = tuple(f"{prefix}{scope}/" for scope in scopes for prefix in ("", "style_params/"))
    strange = sorted(name for name in held.by_name if not name.startswith(known))
    if strange:
        raise CheckpointError(
            f"{held.source}: {', '.join(strange[:5])}: the trunk has no such conv, so nothing was linked"
        )

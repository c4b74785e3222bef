"""The trunk of conditional instance norm in plain torch, as in magenta's code, with random weights; and its files: the
studio's folder, TensorFlow's names, a predictor in ONNX."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from torch import Tensor
from torch.nn import functional

Array = NDArray[np.float32]
Shapes = Mapping[str, list[Any]]
EMBEDDING = 100
EPSILON, BATCH_EPSILON = 1e-5, 1e-3


@dataclass(frozen=True)
class Fixed:
    """A batch norm with fixed (moving) statistics."""

    beta: Tensor
    mean: Tensor
    variance: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, self.mean, self.variance, bias=self.beta, eps=BATCH_EPSILON)


@dataclass(frozen=True)
class Place:
    """A conv, with its name in the studio's files."""

    name: str
    kernel: int
    into: int
    out: int
    stride: int = 1
    doubled: bool = False

    @property
    def scope(self) -> str:
        """Its name in TensorFlow."""
        part, *rest = self.name.split(".")
        if part == "residual":
            return f"transformer/residual/residual{rest[0]}/{rest[1]}"
        return f"transformer/{part}/{rest[0]}" + ("/conv" if part == "expand" else "")


def places(widths: tuple[int, int, int], residuals: int) -> list[Place]:
    a, b, c = widths
    return [
        Place("contract.conv1", 9, 3, a),
        Place("contract.conv2", 3, a, b, stride=2),
        Place("contract.conv3", 3, b, c, stride=2),
        *(Place(f"residual.{at}.conv{half}", 3, c, c) for at in range(1, residuals + 1) for half in (1, 2)),
        Place("expand.conv1", 3, c, b, doubled=True),
        Place("expand.conv2", 3, b, a, doubled=True),
        Place("expand.conv3", 9, a, 3),
    ]


class Trunk:
    """The net. Its first `fixed` convs have a batch norm with moving statistics and β alone; the others are
    conditioned. `padding` is torch's name for it."""

    def __init__(
        self,
        widths: tuple[int, int, int] = (32, 64, 128),
        residuals: int = 5,
        fixed: int = 0,
        padding: str = "reflect",
        seed: int = 0,
    ) -> None:
        self.widths, self.residuals, self.fixed, self.padding = widths, residuals, fixed, padding
        self.places = places(widths, residuals)
        self.drawn = np.random.default_rng(seed)
        shapes = {place.name: (place.out, place.into, place.kernel, place.kernel) for place in self.places}
        self.weights = {name: self._normal(shape) * (2 / prod(shape[1:])) ** 0.5 for name, shape in shapes.items()}
        self.norms = [self._fixed((place.out,)) for place in self.places[:fixed]]

    def _fixed(self, shape: tuple[int, ...]) -> Fixed:
        return Fixed(self._normal(shape) * 0.3, self._normal(shape) * 0.3, self._normal(shape) ** 2 + 0.5)

    def _normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(self.drawn.standard_normal(shape).astype(np.float32))

    @property
    def conditioned(self) -> list[Place]:
        return self.places[self.fixed :]

    @property
    def size(self) -> int:
        """N, the size of a style vector."""
        return 2 * sum(place.out for place in self.conditioned)

    def styles(self, count: int) -> Array:
        """Random styles [count, N]: γ around 1, β around 0."""
        parts = [
            self.drawn.standard_normal((count, place.out)) * 0.3 + start
            for place in self.conditioned
            for start in (1, 0)
        ]
        found: Array = np.concatenate(parts, axis=1).astype(np.float32)
        return found

    def weight(self, place: Place) -> Array:
        """The conv's weight [out, in, k, k]."""
        found: Array = self.weights[place.name].numpy()
        return found

    def layer(self, at: int, x: Tensor, rows: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        place = self.places[at]
        x = functional.interpolate(x, scale_factor=2, mode="nearest") if place.doubled else x
        x = functional.pad(x, [place.kernel // 2] * 4, mode=self.padding)
        x = functional.conv2d(x, self.weights[place.name], stride=place.stride)
        if at < self.fixed:
            return self.norms[at](x)
        variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        gamma, beta = rows[place.name]
        return gamma * (x - mean) / (variance + EPSILON) ** 0.5 + beta

    @torch.no_grad()
    def paint(self, picture: Array, style: Array) -> Array:
        """The paintings of pictures [n, 3, H, W] RGB 0–1 in styles [n, N]."""
        parts = iter(torch.from_numpy(style).split([place.out for place in self.conditioned for _ in "γβ"], dim=1))
        rows = {place.name: (wide(next(parts)), wide(next(parts))) for place in self.conditioned}
        x, last = torch.from_numpy(picture), len(self.places) - 1
        for at in range(3):
            x = torch.relu(self.layer(at, x, rows))
        for at in range(3, last - 2, 2):
            x = x + self.layer(at + 1, torch.relu(self.layer(at, x, rows)), rows)
        for at in (last - 2, last - 1):
            x = torch.relu(self.layer(at, x, rows))
        painted: Array = torch.sigmoid(self.layer(last, x, rows)).numpy()
        return painted


def wide(values: Tensor) -> Tensor:
    return values[:, :, None, None]


def rows_of(trunk: Trunk, styles: Array) -> dict[str, tuple[Array, Array]]:
    """Conditioned conv -> its γ and β, each [styles, C]."""
    parts = iter(np.split(styles, np.cumsum([place.out for place in trunk.conditioned for _ in "γβ"])[:-1], axis=1))
    return {place.name: (next(parts), next(parts)) for place in trunk.conditioned}


def embedding_layer(trunk: Trunk, width: int = EMBEDDING) -> tuple[Array, Array]:
    """A linear layer, weight [N, D] and bias [N]; embeddings around 0 give γ around 1 and β around 0."""
    weight = trunk.drawn.standard_normal((trunk.size, width)) * 0.3 / width**0.5
    bias = np.concatenate([np.full(place.out, start) for place in trunk.conditioned for start in (1.0, 0.0)])
    return weight.astype(np.float32), bias.astype(np.float32)


def tensorflow(trunk: Trunk, styles: Array | None = None, layer: tuple[Array, Array] | None = None) -> dict[str, Array]:
    """Variables by TensorFlow's names, with a row for each of the `styles`, or with the `layer` for embeddings."""
    found = {f"{place.scope}/weights": trunk.weight(place).transpose(2, 3, 1, 0) for place in trunk.places}
    for place, norm in zip(trunk.places, trunk.norms, strict=False):
        held = {"beta": norm.beta, "moving_mean": norm.mean, "moving_variance": norm.variance}
        found |= {f"{place.scope}/BatchNorm/{key}": value.numpy() for key, value in held.items()}
    if styles is not None:
        for place, (gamma, beta) in zip(trunk.conditioned, rows_of(trunk, styles).values(), strict=True):
            found |= {f"{place.scope}/InstanceNorm/gamma": gamma, f"{place.scope}/InstanceNorm/beta": beta}
    if layer is not None:
        for place, sides in zip(trunk.conditioned, rows_of(trunk, np.column_stack(layer).T).values(), strict=True):
            for name, side in zip(("Conv_1", "Conv"), sides, strict=True):
                where = f"style_params/{place.scope}/StyleNorm/{name}"
                found |= {f"{where}/weights": side[:-1][None, None], f"{where}/biases": side[-1]}
    return {name: np.ascontiguousarray(array, np.float32) for name, array in found.items()}


def config(trunk: Trunk, name: str = "mini") -> dict[str, Any]:
    return {
        "format": "impasto-feedforward",
        "name": name,
        "license": "CC0-1.0",
        "trunk": {
            "layout": "cin",
            "widths": list(trunk.widths),
            "residuals": trunk.residuals,
            "padding": "reflect",
            "epsilon": EPSILON,
            "upsampling": "nearest",
            "input": {"scale": 1.0, "order": "RGB"},
            "output": {"activation": "sigmoid", "scale": 1.0},
        },
        "predictor": {"file": "predictor.onnx", "size": 32, "embedding": EMBEDDING},
    }


def studio(folder: Path, trunk: Trunk, name: str = "mini") -> tuple[Array, Array]:
    """Write the studio's folder of this net; returns its linear layer's weight and bias (the neutral vector)."""
    weight, neutral = embedding_layer(trunk)
    tensors = {f"{place.name}.weight": trunk.weight(place) for place in trunk.places}
    folder.mkdir()
    save_file({**tensors, "neutral": neutral, "expand_embedding.weight": weight}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config(trunk, name)))
    onnx.save(predictor(), folder / "predictor.onnx")
    return weight, neutral


def network(folder: Path) -> str:
    """The digest by which styles fitted on the net refer to it."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def predictor(layout: str = "NCHW", size: int = 32, width: int = EMBEDDING) -> onnx.ModelProto:
    """A linear layer of the mean colours: picture → embedding [n, D], or [1, 1, 1, D] for a picture in NHWC."""
    weight = np.random.default_rng(1).standard_normal((3, width)).astype(np.float32)
    axes = [1, 2] if layout == "NHWC" else [2, 3]
    shape, made = (["n", 3, size, size], ["n", width]) if layout == "NCHW" else ([1, size, size, 3], [1, 1, 1, width])
    nodes = [
        helper.make_node("ReduceMean", ["picture", "axes"], ["mean"], keepdims=int(layout == "NHWC")),
        helper.make_node("MatMul", ["mean", "weight"], ["embedding"]),
    ]
    held = [numpy_helper.from_array(np.array(axes), "axes"), numpy_helper.from_array(weight, "weight")]
    return model(nodes, held, {"picture": shape}, {"embedding": made})


def embedding_of(picture: Array, width: int = EMBEDDING) -> Array:
    """The embeddings [n, D] that `predictor` makes of pictures [n, 3, S, S]."""
    weight = np.random.default_rng(1).standard_normal((3, width)).astype(np.float32)
    made: Array = picture.mean((2, 3)) @ weight
    return made


def model(
    nodes: list[Any], held: list[TensorProto], inputs: dict[str, Any], outputs: dict[str, Any]
) -> onnx.ModelProto:
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in items.items()]
        for items in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "made elsewhere", values[0], values[1], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)

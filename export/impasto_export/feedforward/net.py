"""The description of a feed-forward net: its blocks in the order they run, and their tensors. Readers make it; `graph`
turns it into ONNX; the manifest's entry comes from here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from impasto_export.architecture import Json, canonical_json

Array = NDArray[np.float32]
Order = Literal["RGB", "BGR"]
# How far into a picture zero padding is visible: the host pads by this much and crops it off again. It is less where
# "valid" convolutions crop most of that.
BORDER, CROPPED_BORDER = 40, 16  # pixels


@dataclass(frozen=True)
class Norm:
    """A norm. "instance": for each row and channel over the whole picture, with biased variance. "none": no norm, or
    one of fixed statistics that is folded into its conv (`folded`).

    `conditioned`: scale and shift come from the style vector; else from the tensors `<conv>.scale` and `<conv>.shift`,
    if there are any.
    """

    statistics: Literal["instance", "none"] = "none"
    epsilon: float = 0.0
    conditioned: bool = False


@dataclass(frozen=True)
class Conv:
    """Upsampling, padding, convolution, norm, activation. Its tensors are `<name>.weight` [out, in, k, k], and maybe
    `<name>.bias`, `<name>.scale`, `<name>.shift` [out].

    Padding: "reflect" and "zero" by k//2 on every side. "same" as in TensorFlow: zeros, one pixel fewer before than
    after where the stride halves an even picture. "valid": none.
    Upsampling doubles the sides. "nearest" comes before the padding. "transposed" is a transposed convolution, which
    gives 2n + 1 rows and columns: "zero" crops the first, as torch does (padding 1, output padding 1), "same" the last,
    as TensorFlow does. Its weight is [out, in, k, k], too, where a ConvTranspose has [in, out, k, k].
    """

    name: str
    stride: int = 1
    padding: Literal["reflect", "zero", "same", "valid"] = "reflect"
    upsampling: Literal["none", "nearest", "transposed"] = "none"
    norm: Norm = Norm()
    activation: Literal["relu", "none"] = "relu"

    def pads(self, kernel: int) -> tuple[int, int]:
        """Pixels padded before and after, along either axis; for a transposed one, pixels cropped of 2n - 2 + k."""
        if self.padding == "valid":
            return 0, 0
        if self.upsampling == "transposed":
            before = (kernel - 1) // 2 if self.padding == "zero" else (kernel - 2) // 2
            return before, kernel - 2 - before
        if self.padding == "same":
            whole = max(kernel - self.stride, 0)
            return whole // 2, whole - whole // 2
        return kernel // 2, kernel // 2


@dataclass(frozen=True)
class Residual:
    """x + second(first(x)), where x is cropped on every side by as much as "valid" convolutions take (`Net.crop`).

    With a `projection`, projection(x) is added instead of x.
    """

    first: Conv
    second: Conv
    projection: Conv | None = None

    @property
    def convs(self) -> tuple[Conv, ...]:
        return (self.first, self.second, *([self.projection] if self.projection else []))


@dataclass(frozen=True)
class Pool:
    """Max pooling, 2 x 2."""


@dataclass(frozen=True)
class Keep:
    """Keep x for a `Join` of the same name."""

    name: str


@dataclass(frozen=True)
class Join:
    """Concatenate: x's channels, then those kept as `name`. If x is `smaller`, it is first doubled, bilinearly."""

    name: str
    smaller: bool = True


Block = Conv | Residual | Pool | Keep | Join


@dataclass(frozen=True)
class Input:
    """The net's input: a picture x of RGB 0–1 becomes x * scale - mean, with channels in `order`."""

    scale: float = 1.0
    order: Order = "RGB"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Output:
    """The net's output: the last block's x becomes (activation(x) * scale + offset + mean) / white, with channels in
    `order`; then RGB 0–1, which the host clips.

    Last, every value's distance from the picture's mean brightness is multiplied by `contrast`.
    """

    activation: Literal["none", "sigmoid", "tanh"] = "none"
    scale: float = 1.0
    offset: float = 0.0
    order: Order = "RGB"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    white: float = 1.0
    contrast: float = 1.0


@dataclass(frozen=True)
class Net:
    """A net. `name` is the layout it was read from. `pad`: pixels reflected on every side, once, before the first
    block. `tensors` are float32; their names begin with their conv's."""

    name: str
    input: Input
    pad: int
    blocks: tuple[Block, ...]
    output: Output
    tensors: Mapping[str, Array]

    @property
    def convs(self) -> tuple[Conv, ...]:
        """All convs in the order they run, which is the order of γ and β in a style vector."""
        return tuple(_convs(self.blocks))

    @property
    def conditioned(self) -> tuple[Conv, ...]:
        return tuple(conv for conv in self.convs if conv.norm.conditioned)

    @property
    def vector_size(self) -> int:
        """N, the size of a style vector: for each conditioned conv in order its γ, then its β. 0 if there is none."""
        return 2 * sum(self.channels(conv) for conv in self.conditioned)

    @property
    def multiple_of(self) -> int:
        """What a picture's sides must be multiples of."""
        pools = sum(isinstance(block, Pool) for block in self.blocks)
        return math.prod(conv.stride for conv in self.convs) << pools

    @property
    def border(self) -> int:
        """Pixels that the host adds and crops again, so that zero padding makes no visible frame."""
        framed = any(conv.padding in ("zero", "same") for conv in self.convs)
        return (CROPPED_BORDER if self.pad else BORDER) if framed else 0

    def channels(self, conv: Conv) -> int:
        return int(self.tensors[f"{conv.name}.weight"].shape[0])

    def kernel(self, conv: Conv) -> int:
        return int(self.tensors[f"{conv.name}.weight"].shape[2])

    def crop(self, block: Residual) -> int:
        """Pixels that the block takes off every side."""
        valid = [conv for conv in (block.first, block.second) if conv.padding == "valid"]
        return sum(self.kernel(conv) // 2 for conv in valid)

    @property
    def facts(self) -> Json:
        """All that its tensors don't tell, for the manifest."""
        return {
            "layout": self.name,
            "input": asdict(self.input),
            "pad": self.pad,
            "blocks": [asdict(block) if isinstance(block, Conv) else _stated(block) for block in self.blocks],
            "output": asdict(self.output),
        }

    @property
    def digest(self) -> str:
        """sha256 of facts and tensors, to which a style vector belongs. Facts with their default value are left out, so
        that a new kind of fact changes no digest; so is the layout's name."""
        held = {
            name: [list(tensor.shape), hashlib.sha256(tensor.astype("<f4").tobytes()).hexdigest()]
            for name, tensor in self.tensors.items()
        }
        facts = [self.pad, *map(_unusual, (self.input, self.output, *self.blocks))]
        return hashlib.sha256(canonical_json({"facts": facts, "tensors": held})).hexdigest()


def _unusual(value: Any) -> Any:
    """The value's class, and its fields that differ from their defaults."""
    if not is_dataclass(value):
        return value
    said = {item.name: getattr(value, item.name) for item in fields(value)}
    usual = {item.name: item.default for item in fields(value)}
    return [type(value).__name__, {key: _unusual(held) for key, held in said.items() if held != usual[key]}]


def _convs(blocks: tuple[Block, ...]) -> Iterator[Conv]:
    for block in blocks:
        if isinstance(block, Conv):
            yield block
        elif isinstance(block, Residual):
            yield from block.convs


def _stated(block: Residual | Pool | Keep | Join) -> Json:
    """The block's entry in `facts`, under its kind."""
    held = [asdict(conv) for conv in block.convs] if isinstance(block, Residual) else asdict(block)
    return {type(block).__name__.lower(): held}


def folded(
    weight: Array, scale: Array, shift: Array, mean: Array, variance: Array, epsilon: float
) -> tuple[Array, Array]:
    """Weight [out, in, k, k] and bias [out] of a conv without bias, with the norm of fixed statistics [out] after it
    folded in."""
    gain = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    bias = shift - mean * gain
    return (weight * gain[:, None, None, None]).astype(np.float32), bias.astype(np.float32)

"""A feed-forward net described: its blocks in the order they run, and their tensors. Readers make one, `graph` turns it
into ONNX, and what a manifest says of it comes from here."""

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
# How far zeros around a picture are seen in it: a host pads by this much and crops it off again. Less where "valid"
# convolutions crop most of what saw them.
BORDER, CROPPED_BORDER = 40, 16  # pixels


@dataclass(frozen=True)
class Norm:
    """ "instance": of each row and channel over the whole picture, variance biased. "none": a norm of fixed statistics
    is folded into its conv (`folded`).

    `conditioned`: scale and shift come from the style vector; else from the tensors `<conv>.scale` and `<conv>.shift`
    where there are these.
    """

    statistics: Literal["instance", "none"] = "none"
    epsilon: float = 0.0
    conditioned: bool = False


@dataclass(frozen=True)
class Conv:
    """Upsampling, padding, convolution, norm, activation. Its tensors are `<name>.weight` [out, in, k, k], and maybe
    `<name>.bias`, `<name>.scale`, `<name>.shift` [out].

    Padding: "reflect" and "zero" by k//2 on every side. "same" as TensorFlow: zeros, one side fewer before than after
    where the stride halves an even picture. "valid": none.
    Upsampling doubles the sides: "nearest" before the padding; "transposed" is a transposed convolution, of which
    "zero" crops the first row and column of 2n + 1 as torch does (padding 1, output padding 1), and "same" the last
    ones as TensorFlow does. Its weight is [out, in, k, k], too, where a ConvTranspose has [in, out, k, k].
    """

    name: str
    stride: int = 1
    padding: Literal["reflect", "zero", "same", "valid"] = "reflect"
    upsampling: Literal["none", "nearest", "transposed"] = "none"
    norm: Norm = Norm()
    activation: Literal["relu", "none"] = "relu"

    def pads(self, kernel: int) -> tuple[int, int]:
        """Pixels before and after, along either axis; of a transposed one, what is cropped of 2n - 2 + k pixels."""
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
    """x + second(first(x)), x cropped on every side by what "valid" convolutions take away (`Net.crop`).

    With a `projection` it is projection(x) that is added.
    """

    first: Conv
    second: Conv
    projection: Conv | None = None

    @property
    def convs(self) -> tuple[Conv, ...]:
        return (self.first, self.second, *([self.projection] if self.projection else []))


@dataclass(frozen=True)
class Pool:
    """The largest of each two by two pixels."""


@dataclass(frozen=True)
class Keep:
    """x is kept for a `Join` of the same name."""

    name: str


@dataclass(frozen=True)
class Join:
    """What was kept as `name`, its channels behind x's; x is doubled before, between its pixels' centres, where it is
    `smaller`."""

    name: str
    smaller: bool = True


Block = Conv | Residual | Pool | Keep | Join


@dataclass(frozen=True)
class Input:
    """A picture of RGB 0–1 becomes x * scale in `order`, less `mean` (in that order, at that scale)."""

    scale: float = 1.0
    order: Order = "RGB"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Output:
    """The last block's x becomes (activation(x) * scale + offset + mean) / white, in `order`: RGB 0–1 but for what
    lies outside, which the host clips.

    `contrast` is by how much its distance to the picture's mean brightness is then stretched.
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
    """`name` is the layout it was read from. `pad`: reflected pixels on every side, once, before the first block.
    `tensors` are float32 and belong to the convs by their names' beginnings."""

    name: str
    input: Input
    pad: int
    blocks: tuple[Block, ...]
    output: Output
    tensors: Mapping[str, Array]

    @property
    def convs(self) -> tuple[Conv, ...]:
        """In the order they run, which is the order of γ and β in a style vector."""
        return tuple(_convs(self.blocks))

    @property
    def conditioned(self) -> tuple[Conv, ...]:
        return tuple(conv for conv in self.convs if conv.norm.conditioned)

    @property
    def vector_size(self) -> int:
        """N: for each conditioned conv in order its γ, then its β. 0 where the net has no vectors."""
        return 2 * sum(self.channels(conv) for conv in self.conditioned)

    @property
    def multiple_of(self) -> int:
        """What a picture's sides must be multiples of."""
        pools = sum(isinstance(block, Pool) for block in self.blocks)
        return math.prod(conv.stride for conv in self.convs) << pools

    @property
    def border(self) -> int:
        """Pixels that a host adds and crops again, so that zeros of paddings make no frame."""
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
        """All that its tensors don't say, as a manifest has it."""
        return {
            "layout": self.name,
            "input": asdict(self.input),
            "pad": self.pad,
            "blocks": [asdict(block) if isinstance(block, Conv) else _stated(block) for block in self.blocks],
            "output": asdict(self.output),
        }

    @property
    def digest(self) -> str:
        """sha256 of facts and tensors: what a style vector belongs to. A fact that is as usual goes without saying, so
        that one more kind of fact changes no digest; nor does what the layout is called."""
        held = {
            name: [list(tensor.shape), hashlib.sha256(tensor.astype("<f4").tobytes()).hexdigest()]
            for name, tensor in self.tensors.items()
        }
        facts = [self.pad, *map(_unusual, (self.input, self.output, *self.blocks))]
        return hashlib.sha256(canonical_json({"facts": facts, "tensors": held})).hexdigest()


def _unusual(value: Any) -> Any:
    """What it is, and those of its fields that differ from their defaults."""
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
    """As facts have it, under what it is."""
    held = [asdict(conv) for conv in block.convs] if isinstance(block, Residual) else asdict(block)
    return {type(block).__name__.lower(): held}


def folded(
    weight: Array, scale: Array, shift: Array, mean: Array, variance: Array, epsilon: float
) -> tuple[Array, Array]:
    """Weight and bias of a conv [out, in, k, k] with the norm of fixed statistics [out] behind it."""
    gain = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    bias = shift - mean * gain
    return (weight * gain[:, None, None, None]).astype(np.float32), bias.astype(np.float32)

"""Assemble a list of layers, as in Torch's Sequentials, into a net's blocks, where a conv includes its norm and
activation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from impasto_export.feedforward.net import Array, Block, Conv, Norm, Residual, folded


@dataclass(frozen=True)
class Kernel:
    """A convolution: `conv` without norm and activation, weight [out, in, k, k], bias [out]."""

    conv: Conv
    weight: Array
    bias: Array | None


@dataclass(frozen=True)
class Picture:
    """An instance norm, by each picture's own statistics: scale and shift [C]."""

    scale: Array
    shift: Array
    epsilon: float


@dataclass(frozen=True)
class Trained:
    """A batch norm, by its training's statistics: scale, shift, mean and variance [C]."""

    scale: Array
    shift: Array
    mean: Array
    variance: Array
    epsilon: float


@dataclass(frozen=True)
class Relu:
    pass


@dataclass(frozen=True)
class Doubled:
    """Nearest upsampling by two: every pixel four times."""


@dataclass(frozen=True)
class Branch:
    """A residual block: two convolutions with their norms and activations, added to their input."""

    layers: tuple[Layer, ...]


Layer = Kernel | Picture | Trained | Relu | Doubled | Branch


class Misplaced(Exception):
    """A layer is out of place; the text says which and where."""


@dataclass
class Assembly:
    """The blocks and tensors of the layers so far."""

    blocks: list[Block]
    tensors: dict[str, Array]
    doubled: bool = False

    def add(self, layer: Layer) -> None:
        """Add the next layer. Raises Misplaced."""
        match layer:
            case Kernel():
                self._conv(layer)
            case Doubled():
                if self.doubled:
                    raise Misplaced("it doubles twice without a convolution in between")
                self.doubled = True
            case Picture() | Trained():
                self._norm(layer)
            case Relu():
                self._last(activation="relu")
            case Branch():
                self._branch(layer)

    def _conv(self, layer: Kernel) -> None:
        conv, name = layer.conv, layer.conv.name
        if self.doubled:
            if conv.upsampling != "none" or conv.stride != 1:
                raise Misplaced(f"{name} changes the size right after a doubling")
            conv, self.doubled = replace(conv, upsampling="nearest"), False
        self.blocks.append(conv)
        self.tensors[f"{name}.weight"] = layer.weight
        if layer.bias is not None:
            self.tensors[f"{name}.bias"] = layer.bias

    def _norm(self, norm: Picture | Trained) -> None:
        last = self.blocks[-1] if self.blocks else None
        if not isinstance(last, Conv) or last.norm != Norm() or last.activation != "none":
            # Doubling changes neither mean nor variance, so a norm after it may as well come before it.
            last = self._through(len(norm.scale))
        weight = self.tensors[f"{last.name}.weight"]
        if norm.scale.shape != weight.shape[:1] or norm.shift.shape != weight.shape[:1]:
            raise Misplaced(f"the norm after {last.name} has {norm.scale.size} channels, the conv {weight.shape[0]}")
        if isinstance(norm, Trained):
            self._fold(last.name, norm)
            return
        self._last(norm=Norm("instance", norm.epsilon))
        self.tensors |= {f"{last.name}.scale": norm.scale, f"{last.name}.shift": norm.shift}

    def _through(self, channels: int) -> Conv:
        """Add a convolution that changes nothing, so that a norm can follow it."""
        conv = Conv(f"through.{len(self.blocks)}", padding="valid", activation="none")
        self.blocks.append(conv)
        self.tensors[f"{conv.name}.weight"] = np.eye(channels, dtype=np.float32)[:, :, None, None]
        return conv

    def _fold(self, name: str, norm: Trained) -> None:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias")
        mean = norm.mean if bias is None else norm.mean - bias
        changed, added = folded(weight, norm.scale, norm.shift, mean, norm.variance, norm.epsilon)
        self.tensors |= {f"{name}.weight": changed, f"{name}.bias": added}

    def _last(self, **facts: object) -> None:
        last = self.blocks[-1] if self.blocks else None
        if not isinstance(last, Conv):
            raise Misplaced("a norm or an activation follows no convolution")
        self.blocks[-1] = replace(last, **facts)  # type: ignore[arg-type]

    def _branch(self, branch: Branch) -> None:
        inner = Assembly([], self.tensors)
        for layer in branch.layers:
            inner.add(layer)
        first, second, *others = (*inner.blocks, None, None)[:3]
        if not (isinstance(first, Conv) and isinstance(second, Conv)) or others != [None] or inner.doubled:
            raise Misplaced(f"a residual block has {len(inner.blocks)} convolutions; two are expected")
        self.blocks.append(Residual(first, second))


def assembled(layers: Sequence[Layer]) -> Assembly:
    """The blocks and tensors of all layers. Raises Misplaced for layers that make no net of this family."""
    made = Assembly([], {})
    for layer in layers:
        made.add(layer)
    if made.doubled:
        raise Misplaced("nothing follows its last doubling")
    into = 3
    for block in made.blocks:
        for conv in (block,) if isinstance(block, Conv) else block.convs if isinstance(block, Residual) else ():
            weight = made.tensors[f"{conv.name}.weight"]
            if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or weight.shape[1] != into:
                raise Misplaced(f"{conv.name}.weight is {list(weight.shape)}; [out, {into}, k, k] is expected")
            into = weight.shape[0]
        if isinstance(block, Residual) and made.tensors[f"{block.first.name}.weight"].shape[1] != into:
            raise Misplaced(f"{block.second.name} has {into} outputs; as many as the block's inputs are expected")
    if into != 3:
        raise Misplaced(f"its last convolution has {into} outputs; three are expected")
    return made

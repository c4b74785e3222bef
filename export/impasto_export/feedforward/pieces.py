"""Cut a net into graphs that run on tiles, for pictures that are too large to go through it whole.

A piece applies the previous conv's norm and activation, then its own conv, without padding: the tile already contains
the padding. A norm's scale and shift are inputs, since they depend on the whole picture. The additions of residual
blocks, and the end after the last conv, are pieces that work on each pixel alone.

Not every net can be cut: see `cut`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

import numpy as np
from onnx import ModelProto

from impasto_export.architecture import Json
from impasto_export.feedforward.graph import SIDES, Builder, activated, doubled, entered, left
from impasto_export.feedforward.net import Array, Block, Conv, Net, Residual

VECTOR = "pieces.safetensors"  # γ and β of a net without styles, as `vector` [N], like a style of other nets


@dataclass(frozen=True)
class Cut:
    """The pieces. `facts` is the manifest's entry, `graphs` are by file; `vector` if the norms aren't conditioned."""

    facts: Json
    graphs: Mapping[str, ModelProto]
    vector: Array | None


@dataclass(frozen=True)
class Reach:
    """The rows of its input that a conv's output needs: they begin at `lead`, with `extra` more, as in the manifest.

    Of the computed rows, `before` and `after` are cut off again: doubled rows begin and end at even ones.
    """

    lead: int
    extra: int
    slack: int
    before: int = 0
    after: int = 0

    @classmethod
    def of(cls, conv: Conv, kernel: int) -> Reach:
        before, after = conv.pads(kernel)
        if conv.upsampling == "none":
            return cls(-before, kernel, before + after - kernel)
        if conv.upsampling == "nearest":
            lead = -((before + 1) // 2)
            extra = (kernel - 2 - before) // 2 - lead + 1
            cut = -before - 2 * lead
            return cls(lead, extra, before + after - kernel + 1, cut, 2 * extra - cut - kernel + 1)
        lead = (before - kernel + 1) // 2
        extra = (before - 1) // 2 - lead + 1
        cut = before - 2 * lead
        return cls(lead, extra, kernel - 2 - before - after, cut, 2 * (extra - 1) + kernel - cut)


def cut(net: Net) -> Cut | None:
    """The net's pieces; None for a net whose layers can't be computed in tiles that the host pads.

    Such a net has other blocks than convs and plain residual ones, or begins or ends with a residual one; or doubles
    and reflects by more than a pixel; or conditions some norms but not others; or uses the picture's mean.
    """
    instance = [conv for conv in net.convs if conv.norm.statistics == "instance"]
    blocks = [block for block in net.blocks if _plain(block)]
    if len(blocks) < len(net.blocks) or net.output.contrast != 1 or not all(_cuts(net, conv) for conv in net.convs):
        return None
    if len({conv.norm.conditioned for conv in instance}) > 1:
        return None
    if not isinstance(blocks[0], Conv) or not isinstance(blocks[-1], Conv):
        return None
    cutting = _Cutting(net)
    told = [cutting.block(block) for block in blocks]
    end = cutting.point("end", cutting.read, net)
    own = [part for conv in instance for part in _own(net, conv)] if not net.vector_size else []
    vector = np.concatenate(own) if own else None
    facts: Json = {"pad": net.pad, "blocks": told, "end": end, "vector": None if vector is None else VECTOR}
    return Cut(facts, cutting.graphs, vector)


def _plain(block: Block) -> TypeGuard[Conv | Residual]:
    return isinstance(block, Conv) or (isinstance(block, Residual) and block.projection is None)


def _cuts(net: Net, conv: Conv) -> bool:
    before, after = conv.pads(net.kernel(conv))
    if conv.upsampling == "none":
        return True
    if conv.stride != 1 or Reach.of(conv, net.kernel(conv)).slack % 2:
        return False
    return conv.padding != "reflect" or (conv.upsampling == "nearest" and max(before, after) <= 1)


def _own(net: Net, conv: Conv) -> tuple[Array, Array]:
    """γ and β of a norm that isn't conditioned."""
    channels = net.channels(conv)
    scale = net.tensors.get(f"{conv.name}.scale", np.ones(channels, np.float32))
    return scale, net.tensors.get(f"{conv.name}.shift", np.zeros(channels, np.float32))


@dataclass
class _Cutting:
    """The state while cutting a net in order. `read` is the conv whose norm and activation are still to be applied, or
    None."""

    net: Net
    graphs: dict[str, ModelProto] = field(default_factory=dict)
    read: Conv | None = None
    channels: int = 3
    at: int = 0  # in the vector

    def block(self, block: Conv | Residual) -> Json:
        if isinstance(block, Conv):
            return self.conv(block)
        settle = None if self.read is None else self.point("settle", self.read)
        self.read = None
        first, second = self.conv(block.first), self.conv(block.second)
        join = self.point("join", self.read)
        self.read = None
        crop = self.net.crop(block)
        return {"settle": settle, "first": first, "second": second, "join": join, "crop": crop}

    def conv(self, conv: Conv) -> Json:
        """Make the conv's graph; returns its manifest entry."""
        kernel, channels, read = self.net.kernel(conv), self.net.channels(conv), self.channels
        reach, file = Reach.of(conv, kernel), f"piece.{conv.name}.onnx"
        made, inputs = Builder(), _inputs(self.read, read)
        x = _normed(made, self.read) if self.read is not None else "tile"
        x = entered(made, self.net.input, x) if not self.graphs else x
        padding = _padding(conv)
        if padding == "zero":
            inputs["inside"] = ("lanes", 1, "h", "w")
            x = made.add("Mul", x, "inside")
        out = _convolved(made, self.net, conv, x, reach)
        self.graphs[file] = made.model(file, inputs, {"raw": out}, ("lanes", channels, "H", "W"))
        self.read, self.channels = conv, channels
        return {
            "name": conv.name,
            "file": file,
            "channels": channels,
            "stride": conv.stride,
            "doubles": conv.upsampling != "none",
            "lead": reach.lead,
            "extra": reach.extra,
            "slack": reach.slack,
            "padding": padding,
            "norm": self._norm(conv, channels),
        }

    def point(self, kind: str, read: Conv | None, last: Net | None = None) -> str:
        """Make a graph that works on each pixel alone, shared by all equal ones; returns its file."""
        assert read is not None
        file = f"piece.{kind}{'.normed' * _instance(read)}.{read.activation}.onnx"
        made, inputs = Builder(), _inputs(read, self.channels if last else "C")
        x = _normed(made, read)
        if kind == "join":
            inputs["skip"] = ("lanes", "C", "h", "w")
            x = made.add("Add", "skip", x)
        x = x if last is None else left(made, last.output, x)
        self.graphs[file] = made.model(file, inputs, {"settled": x}, ("lanes", 3 if last else "C", "h", "w"))
        return file

    def _norm(self, conv: Conv, channels: int) -> Json | None:
        if not _instance(conv):
            return None
        at, self.at = self.at, self.at + 2 * channels
        return {"epsilon": conv.norm.epsilon, "at": at}


def _instance(conv: Conv) -> bool:
    return conv.norm.statistics == "instance"


def _padding(conv: Conv) -> str:
    if conv.upsampling == "transposed" or conv.padding in ("zero", "same"):
        return "zero"
    if conv.padding == "valid":
        return "none"
    return "edge" if conv.upsampling == "nearest" else "reflect"


def _inputs(read: Conv | None, channels: int | str) -> dict[str, Sequence[int | str]]:
    """The inputs of a piece that reads this conv's raw output."""
    scaling = {"scale": ("lanes", channels, 1, 1), "shift": ("lanes", channels, 1, 1)}
    normed = read is not None and _instance(read)
    return {"tile": ("lanes", channels, "h", "w"), **(scaling if normed else {})}


def _normed(made: Builder, read: Conv) -> str:
    x = made.add("Add", made.add("Mul", "tile", "scale"), "shift") if _instance(read) else "tile"
    return activated(made, read, x)


def _convolved(made: Builder, net: Net, conv: Conv, x: str, reach: Reach) -> str:
    """The convolution without padding: the tile already contains it."""
    kernel, weight, bias = net.kernel(conv), f"{conv.name}.weight", f"{conv.name}.bias"
    rest = [made.tensor(bias, net.tensors[bias])] if bias in net.tensors else []
    kernels = made.tensor(weight, net.tensors[weight])
    if conv.upsampling == "transposed":
        turned = made.add("Transpose", kernels, perm=[1, 0, 2, 3])
        pads = [reach.before] * 2 + [reach.after] * 2
        shape = {"kernel_shape": [kernel] * 2, "strides": [2, 2]}
        return str(made.add("ConvTranspose", x, turned, *rest, pads=pads, **shape))
    if conv.upsampling == "nearest":
        x = _cropped(made, doubled(made, x), reach.before, reach.after)
    return str(made.add("Conv", x, kernels, *rest, kernel_shape=[kernel] * 2, strides=[conv.stride] * 2))


def _cropped(made: Builder, x: str, before: int, after: int) -> str:
    if not before and not after:
        return x
    ends = made.constant([-after or np.iinfo(np.int64).max] * 2, np.int64)
    return str(made.add("Slice", x, made.constant([before] * 2, np.int64), ends, made.constant(SIDES, np.int64)))

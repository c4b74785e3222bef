"""Read nets of jcjohnson's fast-neural-style from PyTorch state dicts, whose names and shapes tell the layers.

Two ways of naming are read: indices in one Sequential (`1.weight`, `10.0.0.0.3.weight`, as converters of Torch's files
write), and `encoder.1.0.weight`, `encoder.4.residual.0.0.weight`, `decoder.0.0.weight` (pystiche's).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from impasto_export.errors import CheckpointError, MisfitCheckpoint
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
from impasto_export.feedforward.fit import STATISTICS
from impasto_export.feedforward.found import Found, Said
from impasto_export.feedforward.net import Conv, Input, Net, Output
from impasto_export.feedforward.source import Source

LAYOUT = "a PyTorch port of jcjohnson's fast-neural-style"
EPSILON = 1e-5
MEAN = (103.939, 116.779, 123.68)  # of blue, green, red
INPUT = Input(scale=255.0, order="BGR", mean=MEAN)
OUTPUT = Output("tanh", scale=150.0, order="BGR", mean=MEAN, white=255.0)
# Pixels that a residual block takes off each side of the picture: two, at a quarter of its size.
PAD = 8
NAME = re.compile(r"(?P<path>(?:(?:encoder|decoder|residual|model|main|net)\.|\d+\.)*\d+)\.(?P<role>\w+)")
ENCODER, DECODER = "encoder", "decoder"
INSTANCE, BATCH = "instance", "batch"
Padding = Literal["reflect", "zero", "valid"]


@dataclass(frozen=True)
class Part:
    """A convolution or a norm by its name; `shape` is its weight's."""

    name: str
    shape: tuple[int, ...]

    @property
    def conv(self) -> bool:
        return len(self.shape) == 4

    @property
    def path(self) -> tuple[int | str, ...]:
        return tuple(int(part) if part.isdigit() else part for part in self.name.split("."))

    @property
    def order(self) -> list[int]:
        """The sort key; an encoder comes before a decoder."""
        return [part if isinstance(part, int) else int(part == DECODER) for part in self.path]

    @property
    def unit(self) -> tuple[int | str, ...]:
        """The block that it belongs to: its path up to the first number."""
        first = next(at for at, part in enumerate(self.path) if isinstance(part, int))
        return self.path[: first + 1]


@dataclass(frozen=True)
class Paddings:
    """A net's paddings. `pad`: once, before everything. `outer`: the 9×9 convolutions. `between`: those that change the
    size. `inner`: those of residual blocks."""

    pad: int
    outer: Padding
    between: Padding
    inner: Padding


def recognises(source: Source) -> bool:
    """Whether the first or last of its layers is a 9×9 convolution from or to a picture."""
    convs = [part for part in _parts(source) if part.conv]
    return bool(convs) and (convs[0].shape[1:] == (3, 9, 9) or (convs[-1].shape[0], *convs[-1].shape[2:]) == (3, 9, 9))


def read(source: Source, said: Said) -> Found:
    """The net. Raises MisfitCheckpoint for tensors that make no such net, CheckpointError when an option is needed that
    was not given."""
    said.only(source, "padding", "norm")
    parts = _parts(source)
    units = [list(held) for _, held in groupby(parts, lambda part: part.unit)]
    residuals = [held for held in units if sum(part.conv for part in held) > 1]
    _check_whole(source, residuals)
    paddings, norm = _paddings(source, parts[0], residuals, said), _norm(source, said)
    try:
        made = assembled([*_layers(source, units, paddings, norm)])
    except Misplaced as error:
        raise MisfitCheckpoint(str(source), [], [str(error)], [], LAYOUT) from None
    net = Net("johnson", INPUT, paddings.pad, tuple(made.blocks), OUTPUT, made.tensors)
    _check_size(source, net)
    return Found(source.name, net, _told(net, paddings, norm, said))


def _check_whole(source: Source, residuals: Sequence[Sequence[Part]]) -> None:
    """Raises MisfitCheckpoint for other names, and for missing residual blocks."""
    strange = sorted(name for name in source.shapes if not NAME.fullmatch(name))
    places = [int(held[0].unit[-1]) for held in residuals]
    gaps = sorted({*range(min(places, default=0), max(places, default=0))} - {*places})
    missing = [f"a residual block in the place {place}" for place in gaps]
    missing += [] if residuals else ["a residual block: two convolutions in one place"]
    if strange or missing:
        raise MisfitCheckpoint(str(source), missing, [], strange, LAYOUT)


def _parts(source: Source) -> list[Part]:
    names = [
        name.removesuffix(".weight") for name in source.shapes if NAME.fullmatch(name) and name.endswith(".weight")
    ]
    parts = [Part(name, source.shapes[f"{name}.weight"]) for name in names]
    return sorted(parts, key=lambda part: part.order)


def _paddings(source: Source, first: Part, residuals: Sequence[Sequence[Part]], said: Said) -> Paddings:
    """The paddings, told by indices: a padding layer has no weights, but takes index 0, so the next begins at 1."""
    before, inside = first.unit[-1] != 0, residuals[0][0].path[-1] != 0
    if before and not inside:
        if said.padding is not None:
            problem = "its layers' indices tell that it reflects once, before everything"
            raise CheckpointError(f"--padding: got {said.padding}; {source}: {problem}; leave it out")
        return Paddings(PAD * len(residuals), "zero", "zero", "valid")
    wanted: Padding = "reflect" if before else "zero"
    if said.padding != wanted:
        others = "replicate" if before else "none"
        problem = f"its layers' indices tell that its padding is {wanted!r} or {others!r}, but not which"
        raise CheckpointError(f"{source}: {problem}; give --padding {wanted} if it is that; the other is not served")
    return Paddings(0, wanted, "zero", wanted)


def _norm(source: Source, said: Said) -> str:
    """The kind of its norms: instance or batch."""
    if said.norm not in (None, INSTANCE, BATCH):
        raise CheckpointError(f"--norm: got {said.norm!r}; choose {BATCH} or {INSTANCE}")
    tracked = any(name.endswith("running_var") for name in source.shapes)
    if not tracked and said.norm == BATCH:
        raise CheckpointError(
            f"--norm: got {BATCH}, but {source} has no running_mean, running_var: its norms are {INSTANCE}"
        )
    if tracked and said.norm is None:
        problem = "its norms have running statistics, which BatchNorm uses and InstanceNorm ignores"
        raise CheckpointError(f"{source}: {problem}; give --norm {BATCH} or --norm {INSTANCE}")
    return said.norm or INSTANCE


def _layers(source: Source, units: Sequence[Sequence[Part]], paddings: Paddings, norm: str) -> Iterator[Layer]:
    """The layers in order. A norm that follows no convolution means Torch's `U2`: a doubling, then a norm."""
    into, shrinking, doubled, before = 3, True, False, ""
    for held in units:
        if sum(part.conv for part in held) > 1:
            yield Branch(tuple(_branch(source, held, paddings.inner, norm)))
            shrinking, before = False, "branch"
            continue
        for part in held:
            if not part.conv:
                if before != "conv":
                    doubled = True
                    yield Doubled()
                yield from (_normed(source, part, norm), Relu())
            else:
                ends = into == 3 or held is units[-1]
                transposed = not ends and not shrinking and part.shape[0] == into != part.shape[1]
                if not (ends or shrinking or transposed or doubled):
                    yield Doubled()
                yield _kernel(
                    source, part, paddings.outer if ends else paddings.between, shrinking and not ends, transposed
                )
                into, doubled = part.shape[1 if transposed else 0], False
            before = "conv" if part.conv else "norm"


def _branch(source: Source, held: Sequence[Part], padding: Padding, norm: str) -> Iterator[Layer]:
    for at, part in enumerate(held):
        yield _kernel(source, part, padding) if part.conv else _normed(source, part, norm)
        if not part.conv and at < len(held) - 1:
            yield Relu()


def _kernel(source: Source, part: Part, padding: Padding, halves: bool = False, transposed: bool = False) -> Kernel:
    weight, bias = source.tensor(f"{part.name}.weight"), f"{part.name}.bias"
    conv = Conv(part.name, 2 if halves else 1, padding, "transposed" if transposed else "none", activation="none")
    turned = weight.transpose(1, 0, 2, 3).copy() if transposed else weight
    return Kernel(conv, turned, source.tensor(bias) if bias in source.shapes else None)


def _normed(source: Source, part: Part, norm: str) -> Picture | Trained:
    scale, shift = (source.tensor(f"{part.name}.{role}") for role in ("weight", "bias"))
    if norm == INSTANCE:
        return Picture(scale, shift, EPSILON)
    mean, variance = (source.tensor(f"{part.name}.{role}") for role in STATISTICS[:2])
    return Trained(scale, shift, mean, variance, EPSILON)


def _check_size(source: Source, net: Net) -> None:
    """Raises MisfitCheckpoint for a net whose output would have another size than the photo."""
    halved = sum(conv.stride == 2 for conv in net.convs)
    doubled = sum(conv.upsampling != "none" for conv in net.convs)
    if halved != doubled:
        problem = f"it halves {halved} times and doubles {doubled} times"
        raise MisfitCheckpoint(str(source), [], [problem], [], LAYOUT)


def _told(net: Net, paddings: Paddings, norm: str, said: Said) -> dict[str, str]:
    once = f"reflect, {paddings.pad} pixels once; residuals crop" if paddings.pad else f"{paddings.outer} (--padding)"
    kinds = {conv.upsampling for conv in net.convs} - {"none"}
    return {
        "padding": f"{once} (its layers' places)" if paddings.pad else once,
        "norm": f"{norm}, epsilon {EPSILON:g} ({'--norm' if said.norm else 'no running statistics'})",
        "upsampling": f"{', '.join(sorted(kinds))} (shapes of its weights)",
        "input": f"BGR 0-255 - {MEAN} ({LAYOUT})",
        "output": f"tanh * 150 + {MEAN}, BGR 0-255 ({LAYOUT})",
    }

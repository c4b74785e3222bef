"""The net ("trunk") that conditional instance norm was published with: contracting, residual and expanding convs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from impasto_export.errors import CheckpointError
from impasto_export.feedforward.net import Block, Conv, Net, Norm, Residual

Padding = Literal["reflect", "zero", "same"]
FIXED = Norm()
# The facts that a config states of it.
FACTS = ("layout", "widths", "residuals", "padding", "epsilon", "upsampling", "input", "output")
CONTRACTING, EXPANDING = 3, 3


def blocks(residuals: int, padding: Padding, norm: Callable[[str], Norm]) -> tuple[Block, ...]:
    """`contract.conv{1,2,3}`, `residual.{1…}.conv{1,2}`, `expand.conv{1,2,3}`; `norm` gives the norm after each.

    There is no relu after the last conv, a residual's second one, or a residual's addition.
    """

    def conv(name: str, stride: int = 1, doubled: bool = False, relu: bool = True) -> Conv:
        upsampling: Literal["nearest", "none"] = "nearest" if doubled else "none"
        return Conv(name, stride, padding, upsampling, norm(name), "relu" if relu else "none")

    return (
        conv("contract.conv1"),
        conv("contract.conv2", stride=2),
        conv("contract.conv3", stride=2),
        *(
            Residual(conv(f"residual.{number}.conv1"), conv(f"residual.{number}.conv2", relu=False))
            for number in range(1, residuals + 1)
        ),
        conv("expand.conv1", doubled=True),
        conv("expand.conv2", doubled=True),
        conv("expand.conv3", relu=False),
    )


def names(residuals: int) -> list[str]:
    """The convs' names, in the order they run."""
    return [
        *(f"contract.conv{number}" for number in range(1, CONTRACTING + 1)),
        *(f"residual.{number}.conv{half}" for number in range(1, residuals + 1) for half in (1, 2)),
        *(f"expand.conv{number}" for number in range(1, EXPANDING + 1)),
    ]


def check(place: str, net: Net, widths: Sequence[int] | None = None) -> None:
    """Raises CheckpointError for a conv whose inputs aren't the previous conv's outputs, for an even kernel, and for
    widths other than `widths`."""
    given = 3
    for conv in net.convs:
        name, shape = f"{conv.name}.weight", net.tensors[f"{conv.name}.weight"].shape
        if len(shape) != 4 or shape[1] != given or shape[2] != shape[3] or not shape[2] % 2:
            problem = f"{name} is {list(shape)}, but the conv before it gives {given} channels"
            raise CheckpointError(f"{place}: {problem}; [out, {given}, k, k] with an odd k is expected")
        given = shape[0]
    if given != 3:
        raise CheckpointError(f"{place}: its last conv gives {given} channels; a picture has 3")
    found = contracting(net)
    if widths is not None and found != list(widths):
        raise CheckpointError(f"{place}: its convs are {found} wide, but its config says {list(widths)}")
    for block in net.blocks:
        if isinstance(block, Residual) and net.channels(block.second) != found[-1]:
            given = net.channels(block.second)
            raise CheckpointError(f"{place}: {block.second.name} gives {given} channels; {found[-1]} are expected")


def named(net: Net) -> Net:
    """The net under its layout's name: whether all or only some convs are conditioned, and the widths."""
    kind = "cin" if len(net.conditioned) == len(net.convs) else "arbitrary"
    return replace(net, name="-".join([kind, *map(str, contracting(net))]))


def contracting(net: Net) -> list[int]:
    """Widths of the contracting convs, which name the layout."""
    return [net.channels(conv) for conv in net.convs[:CONTRACTING]]


def told(net: Net) -> dict[str, str]:
    """The facts that its tensors tell, in words."""
    blocks = sum(isinstance(block, Residual) for block in net.blocks)
    first, *_, last = net.conditioned
    return {
        "layout": f"{net.name.partition('-')[0]}, {blocks} residual blocks",
        "widths": ", ".join(str(net.channels(conv)) for conv in net.convs),
        "conditioned": f"{len(net.conditioned)} of {len(net.convs)} convs, {first.name} to {last.name}",
    }

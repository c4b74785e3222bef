"""The trunk that conditional instance norm was published with: contracting, residual and expanding convs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from impasto_export.feedforward.net import Block, Conv, Norm, Residual

Padding = Literal["reflect", "zero", "same"]
FIXED = Norm()
CONTRACTING, EXPANDING = 3, 3


def blocks(residuals: int, padding: Padding, norm: Callable[[str], Norm]) -> tuple[Block, ...]:
    """`contract.conv{1,2,3}`, `residual.{1…}.conv{1,2}`, `expand.conv{1,2,3}`; `norm` says what is behind each.

    The last conv and a residual's second have no relu, and after a residual's addition there is none.
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
    """Of its convs, in the order they run."""
    return [
        *(f"contract.conv{number}" for number in range(1, CONTRACTING + 1)),
        *(f"residual.{number}.conv{half}" for number in range(1, residuals + 1) for half in (1, 2)),
        *(f"expand.conv{number}" for number in range(1, EXPANDING + 1)),
    ]

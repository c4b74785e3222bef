"""A net in pieces, as a manifest has them: what a picture is painted by that is too large to go through it whole.

A piece is a graph on a tile. Of a conv it takes the raw output of the conv before it, and gives its own raw output: the
norm and the activation of what it reads stand at its beginning, since what a norm needs is known when all tiles before
it are done. Beside the tile it has inputs, each [lanes, C, 1, 1] or [lanes, 1, h, w], where there is a use for them:

scale, shift  the norm of what it reads, as x * scale + shift
inside        0 where a tile hangs over the picture's border and the net has zeros, else 1
skip          the x of a residual block, to which the end of the block is added

`impasto link` writes them; which arithmetic is in them nobody here knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from impasto_server.bundle import Frozen

Padding = Literal["reflect", "edge", "zero", "none"]


class Norm(Frozen):
    """Of a conv's output: over the whole picture. γ stands `at` a place of the vector, β behind it."""

    epsilon: float = Field(ge=0)
    at: int = Field(ge=0)


class Conv(Frozen):
    """A conv. `count` rows of its output from `start` are made of rows of its input: see `reach`.

    It reads beyond the border of its input as `padding` says: mirrored, the outermost row again, zeros, or never.
    """

    name: str
    file: str
    channels: int = Field(gt=0)
    stride: int = Field(gt=0)
    doubles: bool
    lead: int
    extra: int
    slack: int
    padding: Padding
    norm: Norm | None

    @model_validator(mode="after")
    def _can_be_cut(self) -> Conv:
        if self.doubles and (self.stride != 1 or self.slack % 2):
            raise ValueError(f"{self.name} has a stride or an odd size beside doubling sides")
        return self

    def size(self, of: int) -> int:
        """A side of the output, of its input's."""
        return 2 * of + self.slack if self.doubles else (of + self.slack) // self.stride + 1

    def reach(self, start: int, count: int) -> tuple[int, int]:
        """Where the rows of the input begin and how many they are; where sides are doubled both are even."""
        if self.doubles:
            assert start % 2 == count % 2 == 0
            return start // 2 + self.lead, count // 2 + self.extra
        return start * self.stride + self.lead, (count - 1) * self.stride + self.extra


class Residual(Frozen):
    """x + second(first(x)), of x without `crop` rows at each side. `settle` makes x of raw output, `join` adds."""

    settle: str | None
    first: Conv
    second: Conv
    join: str
    crop: int = Field(ge=0)


class Pieces(Frozen):
    """`pad` pixels are mirrored at each side before the first block, `end` makes a picture of what the last one gave.

    `vector` is the file of γ and β of a net that has its own (`vector` [N]); None where requests bring theirs.
    """

    pad: int = Field(ge=0)
    blocks: tuple[Conv | Residual, ...] = Field(min_length=1)
    end: str
    vector: str | None

    @model_validator(mode="after")
    def _ends_with_a_conv(self) -> Pieces:
        if not isinstance(self.blocks[0], Conv) or not isinstance(self.blocks[-1], Conv):
            raise ValueError("the first or the last block is no conv")
        return self

    @property
    def convs(self) -> Iterator[Conv]:
        """In the order they run."""
        for block in self.blocks:
            yield from (block,) if isinstance(block, Conv) else (block.first, block.second)

    @property
    def numbers(self) -> int:
        """How many of a vector the norms take."""
        return max((conv.norm.at + 2 * conv.channels for conv in self.convs if conv.norm is not None), default=0)

    @property
    def files(self) -> list[str]:
        points = [file for block in self.blocks if isinstance(block, Residual) for file in (block.settle, block.join)]
        own = [self.end, self.vector, *points]
        return [conv.file for conv in self.convs] + [file for file in dict.fromkeys(own) if file is not None]

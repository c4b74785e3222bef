"""A net in pieces, as in a manifest: they paint pictures that are too large to be painted whole.

A piece is a graph on a tile. A conv's piece takes the raw output of the conv before it and gives its own raw output.
The norm and activation of its input come first in it, since a norm's statistics are known only when all earlier tiles
are done. Beside the tile a piece may have these inputs, each [lanes, C, 1, 1] or [lanes, 1, h, w]:

scale, shift  the norm of its input, as x * scale + shift
inside        0 where a tile lies beyond the picture's border and the net has zeros there, else 1
skip          the x of a residual block, which is added at the block's end

`impasto link` writes the pieces; the server doesn't know their arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from impasto_server.bundle import Frozen

Padding = Literal["reflect", "edge", "zero", "none"]


class Norm(Frozen):
    """The norm of a conv's output, over the whole picture. γ begins `at` a place of the vector, and β follows it."""

    epsilon: float = Field(ge=0)
    at: int = Field(ge=0)


class Conv(Frozen):
    """A conv. `size` and `reach` say which rows of its input its output needs.

    `padding` is what it reads beyond its input's border: mirrored rows, the outermost row again, zeros, or nothing.
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
            raise ValueError(f"{self.name} doubles sides, and also has a stride or an odd size")
        return self

    def size(self, of: int) -> int:
        """A side of the output, from the input's side `of`."""
        return 2 * of + self.slack if self.doubles else (of + self.slack) // self.stride + 1

    def reach(self, start: int, count: int) -> tuple[int, int]:
        """The start and count of the input rows for `count` output rows from `start`; both even where sides double."""
        if self.doubles:
            assert start % 2 == count % 2 == 0
            return start // 2 + self.lead, count // 2 + self.extra
        return start * self.stride + self.lead, (count - 1) * self.stride + self.extra


class Residual(Frozen):
    """x + second(first(x)), where the added x lacks `crop` rows at each side. `settle` makes x from raw output, `join`
    adds.
    """

    settle: str | None
    first: Conv
    second: Conv
    join: str
    crop: int = Field(ge=0)


class Pieces(Frozen):
    """The blocks of a net. `pad` pixels are mirrored at each side before the first block; `end` makes the picture from
    the last block's output.

    `vector` is the file with γ and β of a net that has its own (`vector` [N]); None where requests bring theirs.
    """

    pad: int = Field(ge=0)
    blocks: tuple[Conv | Residual, ...] = Field(min_length=1)
    end: str
    vector: str | None

    @model_validator(mode="after")
    def _ends_with_a_conv(self) -> Pieces:
        if not isinstance(self.blocks[0], Conv) or not isinstance(self.blocks[-1], Conv):
            raise ValueError("the first or the last block is not a conv")
        return self

    @property
    def convs(self) -> Iterator[Conv]:
        """All convs, in the order that they run."""
        for block in self.blocks:
            yield from (block,) if isinstance(block, Conv) else (block.first, block.second)

    @property
    def numbers(self) -> int:
        """How many numbers of a vector the norms take."""
        return max((conv.norm.at + 2 * conv.channels for conv in self.convs if conv.norm is not None), default=0)

    @property
    def files(self) -> list[str]:
        points = [file for block in self.blocks if isinstance(block, Residual) for file in (block.settle, block.join)]
        own = [self.end, self.vector, *points]
        return [conv.file for conv in self.convs] + [file for file in dict.fromkeys(own) if file is not None]

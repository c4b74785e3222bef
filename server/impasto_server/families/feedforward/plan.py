"""What is kept of a picture that is painted in tiles, and what that takes: memory against computing things again.

The raw output of each conv is wanted twice: for its statistics, which need all of it, and then by the next conv. What
isn't kept in between is computed again, tile by tile, from what is. Three ways, of which the first is taken that fits
into the memory there is:

all       nothing is computed again
smaller   what has as many pixels as the picture is computed again: little work, most of the memory
needed    only what other things are added to, or the picture is made of, is kept
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from impasto_server.families.feedforward.pieces import Conv, Pieces, Residual

SIDE = 512  # pixels of the picture that a side of a tile stands for; even


@dataclass(frozen=True)
class Plane:
    """What a layer gives: so many channels, rows and columns, in tiles of `side` x `side`, which is even."""

    channels: int
    height: int
    width: int
    side: int

    @classmethod
    def picture(cls, height: int, width: int, side: int) -> Plane:
        return cls(3, height, width, side)

    @property
    def numbers(self) -> int:
        return self.channels * self.height * self.width

    @property
    def tiles(self) -> int:
        return ceil(self.height / self.side) * ceil(self.width / self.side)

    def through(self, conv: Conv) -> Plane:
        side = 2 * self.side if conv.doubles else max(2, self.side // conv.stride // 2 * 2)
        return Plane(conv.channels, conv.size(self.height), conv.size(self.width), side)


@dataclass(frozen=True)
class Plan:
    """The convs that are `kept`, by name; how many `numbers` at most at any time; how many `steps` that makes."""

    kept: frozenset[str]
    numbers: int
    steps: int

    @classmethod
    def of(cls, pieces: Pieces, height: int, width: int, kept: frozenset[str], side: int = SIDE) -> Plan:
        count = _Count(kept, _picture(pieces, height, width, side))
        for block in pieces.blocks:
            count.block(block)
        return cls(kept, count.most, count.steps + count.plane.tiles)


def plans(pieces: Pieces, height: int, width: int, side: int = SIDE) -> Iterator[Plan]:
    """The one with the least work first."""
    for kept in _ways(pieces, height, width):
        yield Plan.of(pieces, height, width, kept, side)


def planes(pieces: Pieces, height: int, width: int) -> Iterator[Plane]:
    """What each conv gives, in order."""
    plane = _picture(pieces, height, width, SIDE)
    for conv in pieces.convs:
        plane = plane.through(conv)
        yield plane


def largest(pieces: Pieces, numbers: int) -> int:
    """Pixels of the largest picture of which no more is kept than so many numbers, to 0.1 million."""
    side = 1 << 12
    (*_, least) = plans(pieces, side, side)
    return int(numbers / least.numbers * side * side) // 100_000 * 100_000


def _ways(pieces: Pieces, height: int, width: int) -> Iterator[frozenset[str]]:
    convs, needed = list(pieces.convs), frozenset(_needed(pieces))
    sized = zip(convs, planes(pieces, height, width), strict=True)
    yield frozenset(conv.name for conv in convs)
    yield needed | {conv.name for conv, plane in sized if 2 * plane.height * plane.width <= height * width}
    yield needed


def _picture(pieces: Pieces, height: int, width: int, side: int) -> Plane:
    return Plane.picture(height + 2 * pieces.pad, width + 2 * pieces.pad, side)


def _needed(pieces: Pieces) -> Iterator[str]:
    """What is written into, and so must be there."""
    before: Conv | None = None
    for block in pieces.blocks:
        if isinstance(block, Residual):
            if before is not None:
                yield before.name
            yield block.second.name
        before = block if isinstance(block, Conv) else None
    assert before is not None
    yield before.name


@dataclass
class _Count:
    """Goes through a net: `root` are the numbers that what comes next is computed from, `depth` convs behind it."""

    kept: frozenset[str]
    plane: Plane
    steps: int = 0
    most: int = 0
    root: int = 0
    depth: int = 0

    def block(self, block: Conv | Residual) -> None:
        if isinstance(block, Conv):
            self.conv(block, 0)
            return
        if block.settle is not None:
            self.steps += self.plane.tiles
        skip, self.root = self.root, 0
        self.conv(block.first, skip)
        self.conv(block.second, skip)
        self.steps += self.plane.tiles

    def conv(self, conv: Conv, beside: int) -> None:
        self.plane, self.depth = self.plane.through(conv), self.depth + 1
        keeps = conv.name in self.kept
        if keeps or conv.norm is not None:
            self.steps += self.depth * self.plane.tiles
        if keeps:
            self.most = max(self.most, beside + self.root + self.plane.numbers)
            self.root, self.depth = self.plane.numbers, 0

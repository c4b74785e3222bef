"""The plan of a picture painted in tiles: which layers are kept, and which are computed again to save memory.

The raw output of each conv is needed twice: for its statistics, which need all of it, and by the next conv. A layer
that isn't kept in between is computed again, tile by tile, from one that is. There are three ways; the first that fits
into memory is taken:

all       nothing is computed again
smaller   layers with as many pixels as the picture are computed again: little work, and they take most of the memory
needed    only layers that are added to, or that the picture is made from, are kept
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from impasto_server.families.feedforward.pieces import Conv, Pieces, Residual

SIDE = 512  # pixels of the picture per side of a tile; even


@dataclass(frozen=True)
class Plane:
    """The shape of a layer's output, in tiles of `side` x `side`; `side` is even."""

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
    """The convs that are `kept`, by name; the most `numbers` held at any time; and how many `steps` it makes."""

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
    """All plans, the one with the least work first."""
    for kept in _ways(pieces, height, width):
        yield Plan.of(pieces, height, width, kept, side)


def planes(pieces: Pieces, height: int, width: int) -> Iterator[Plane]:
    """The plane of each conv's output, in order."""
    plane = _picture(pieces, height, width, SIDE)
    for conv in pieces.convs:
        plane = plane.through(conv)
        yield plane


def largest(pieces: Pieces, numbers: int) -> int:
    """Pixels of the largest picture whose kept layers have at most so many `numbers`, rounded down to 0.1 million."""
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
    """The layers that are written into, and so must be kept."""
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
    """Walks through a net and counts. `root` is the numbers of the last kept layer, `depth` the convs since then."""

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

"""A picture painted in tiles: the result equals the whole picture's, in bounded memory.

A norm needs statistics of the whole picture. So the net runs layer by layer, each on all tiles; a layer's norm is
applied by the next layer, when its statistics are known. The host pads layers at the picture's border, on raw values:
mirroring and repeating the outermost row give the same before and after a pixelwise operation.

A layer is kept, or its tiles are computed again from the layer before it (plan.py). All tiles of a layer have one size;
the last of a row overlaps the one before it, and only its new part counts.

It is a generator of asks like every sampler: between any two tiles others have their turn, and a caller may leave.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.engines.engine import item_bytes, stored, widened
from impasto_server.families.feedforward.colours import to_pixels
from impasto_server.families.feedforward.moments import Moments, Scaling
from impasto_server.families.feedforward.pieces import Conv, Padding, Pieces, Residual
from impasto_server.families.feedforward.plan import SIDE, Plan, Plane
from impasto_server.settings import Precision
from impasto_server.steps import Ask

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]
OneTile = Generator[Ask, Array, Array]

END = "end"  # the stage that makes the picture from the last conv's output

_MODES: dict[Padding, Any] = {"reflect": "reflect", "edge": "edge", "zero": "constant", "none": "constant"}


@dataclass(frozen=True)
class TileAsk(Ask):
    """An ask for one tile. `sample` is the tile [C, h, w], `scaling` is for the norm still to be applied to it;
    `inside` [1, h, w] and `skip` [C, h, w] are as in pieces.py. `last`: its stage isn't asked again soon.
    """

    scaling: Scaling | None = None
    inside: Array | None = None
    skip: Array | None = None
    last: bool = False


@dataclass(frozen=True)
class Span:
    """`count` rows or columns of a layer from `start`. The first `own` of them belong to another tile."""

    start: int
    count: int
    own: int = 0


@dataclass(frozen=True)
class Box:
    """A tile's place in a layer, and whether it is the layer's last tile."""

    rows: Span
    columns: Span
    last: bool = False

    @property
    def sides(self) -> tuple[Span, Span]:
        return self.rows, self.columns

    def through(self, change: Callable[[Span, int], Span]) -> Box:
        """The box with `change(span, side)` applied to its rows (side 0) and columns (side 1)."""
        return Box(change(self.rows, 0), change(self.columns, 1), self.last)

    @property
    def own(self) -> tuple[slice, slice, slice]:
        """The part of the layer that belongs to this tile."""
        rows, columns = (slice(one.start + one.own, one.start + one.count) for one in self.sides)
        return slice(None), rows, columns

    def owned(self, tile: Array) -> Array:
        return tile[:, self.rows.own :, self.columns.own :]


@dataclass(eq=False)
class Layer:
    """The output of a conv: its stored `values` [C, H, W] if it is kept; else `conv` computes it from `source`.

    `scaling` is for its norm, which is still to be applied; it is known once all tiles have been seen.
    """

    plane: Plane
    values: NDArray[Any] | None
    conv: Conv | None = None
    source: Layer | None = None
    scaling: Scaling | None = None


@dataclass(eq=False)
class Painting:
    """One picture on its way through the pieces of a net; kept layers are stored in `precision`.

    Its asks are for one `lane`. `steps` counts those of all lanes, `done` those before the next.
    """

    pieces: Pieces
    plan: Plan
    steps: int
    precision: Precision = "f32"
    lane: int | None = None
    side: int = SIDE
    done: int = 0

    def paint(self, picture: Pixels, out: NDArray[Any]) -> Generator[Ask, Array, None]:
        """Paint RGB uint8 [H, W, 3], with sides that the net can take, into `out`: float32 [3, H, W] in 0..1, not
        clipped, or uint8 [H, W, 3].
        """
        x = _pictured(picture, self.pieces.pad, self.side)
        for block in self.pieces.blocks:
            x = yield from (self._conv(x, block) if isinstance(block, Conv) else self._residual(x, block))
        for box in boxes(x.plane):
            tile = box.owned((yield self._ask(END, box, _cut(x, box), x.scaling)))
            if out.dtype == np.uint8:
                out[box.own[1:]] = to_pixels(tile)
            else:
                out[box.own] = tile

    def _residual(self, x: Layer, block: Residual) -> Generator[Ask, Array, Layer]:
        if block.settle is not None:
            yield from self._each(x, f"{block.first.name}.settle")
        first = yield from self._conv(x, block.first)
        changed = yield from self._conv(first, block.second)
        yield from self._each(changed, f"{block.second.name}.join", x, block.crop)
        return changed

    def _conv(self, source: Layer, conv: Conv) -> Generator[Ask, Array, Layer]:
        """The next layer; if it is kept, the layer before it is no longer needed."""
        plane, keeps = source.plane.through(conv), conv.name in self.plan.kept
        values = self._empty(plane) if keeps else None
        made, moments = Layer(plane, None, conv, source), Moments(conv.channels)
        for box in boxes(plane) if keeps or conv.norm is not None else ():
            tile = yield from self._tile(made, box)
            if conv.norm is not None:
                moments.add(box.owned(tile))
            if values is not None:
                self._store(values[box.own], box.owned(tile))
        scaling = None if conv.norm is None else moments.scaling(conv.norm.epsilon)
        return Layer(plane, values, conv, None if keeps else source, scaling)

    def _each(self, x: Layer, stage: str, skip: Layer | None = None, crop: int = 0) -> Generator[Ask, Array, None]:
        """Run a pixelwise stage on a layer, in place."""
        assert x.values is not None
        for box in boxes(x.plane):
            beside = None if skip is None else _cut(skip, box, crop)
            tile = yield self._ask(stage, box, _cut(x, box), x.scaling, skip=beside)
            self._store(x.values[box.own], box.owned(tile))
        x.scaling = None

    def _tile(self, layer: Layer, box: Box) -> OneTile:
        """The raw values of a tile of a layer that isn't kept."""
        assert layer.conv is not None
        assert layer.source is not None
        source, conv = layer.source, layer.conv
        wanted = box.through(lambda one, _: Span(*conv.reach(one.start, one.count)))
        if source.values is None:
            there = _within(wanted, source)
            values = yield from self._tile(source, there)
            sample, inside = _padded(Layer(source.plane, values), wanted, conv.padding, there)
        else:
            sample, inside = _padded(source, wanted, conv.padding)
        return (yield self._ask(conv.name, box, sample, source.scaling, inside=inside))

    def _ask(
        self,
        stage: str,
        box: Box,
        sample: Array,
        scaling: Scaling | None,
        inside: Array | None = None,
        skip: Array | None = None,
    ) -> TileAsk:
        step, self.done = self.done, self.done + 1
        return TileAsk(
            sample,
            0.0,
            step,
            self.steps,
            stage=stage,
            lane=self.lane,
            scaling=scaling,
            inside=inside,
            skip=skip,
            last=box.last,
        )

    def _store(self, values: NDArray[Any], tile: Array) -> None:
        """Store a tile channel by channel, which fits a core's cache; all at once takes twice as long."""
        for place, channel in zip(values, tile, strict=True):
            place[:] = stored(channel, self.precision)

    def _empty(self, plane: Plane) -> NDArray[Any]:
        kind = np.uint16 if item_bytes(self.precision) == 2 else np.float32
        return np.empty((plane.channels, plane.height, plane.width), kind)


def boxes(plane: Plane) -> Iterator[Box]:
    rows, columns = list(spans(plane.height, plane.side)), list(spans(plane.width, plane.side))
    for row in rows:
        for column in columns:
            yield Box(row, column, row is rows[-1] and column is columns[-1])


def spans(size: int, side: int) -> Iterator[Span]:
    """Spans of equal count that together cover `size`; each owns what no earlier one does."""
    count = min(side, size)
    for start in range(0, size, count):
        placed = min(start, size - count)
        yield Span(placed, count, start - placed)


def _pictured(picture: Pixels, pad: int, side: int) -> Layer:
    """The picture as a layer [3, H, W]: a view, whose tiles become float32 when they are cut out."""
    whole = np.pad(picture, ((pad, pad), (pad, pad), (0, 0)), "reflect") if pad else picture
    height, width, _ = whole.shape
    return Layer(Plane.picture(height, width, side), whole.transpose(2, 0, 1))


def _within(wanted: Box, layer: Layer) -> Box:
    """The box of a layer that must be computed for the `wanted` one, which may reach beyond the layer."""
    doubles = layer.conv is not None and layer.conv.doubles
    sizes = (layer.plane.height, layer.plane.width)
    return wanted.through(lambda one, side: _inside(one, sizes[side], doubles))


def _inside(wanted: Span, size: int, even: bool) -> Span:
    """The span to compute of `size` rows, of equal count at every place; with `even`, its bounds are even."""
    first, count = max(wanted.start, 0), wanted.count
    if even:
        first, count = first - first % 2, count + 2 - count % 2
    count = min(count, size)
    return Span(min(first, size - count), count)


def _padded(layer: Layer, wanted: Box, padding: Padding, there: Box | None = None) -> tuple[Array, Array | None]:
    """The `wanted` tile of a layer, padded beyond the layer's border as `padding` says, and the tile's `inside`.

    If `there` is given, the layer's values are only those of that box.
    """
    assert layer.values is not None
    origin = (0, 0) if there is None else (there.rows.start, there.columns.start)
    sizes = (layer.plane.height, layer.plane.width)
    first = [max(one.start, 0) for one in wanted.sides]
    last = [min(one.start + one.count, size) for one, size in zip(wanted.sides, sizes, strict=True)]
    parts = (slice(start - at, end - at) for start, end, at in zip(first, last, origin, strict=True))
    tile = _floats(layer.values[(slice(None), *parts)])
    beyond = [
        (start - one.start, one.start + one.count - end)
        for one, start, end in zip(wanted.sides, first, last, strict=True)
    ]
    inside = np.pad(np.ones((1, *tile.shape[1:]), np.float32), ((0, 0), *beyond)) if padding == "zero" else None
    return (np.pad(tile, ((0, 0), *beyond), _MODES[padding]) if np.any(beyond) else tile), inside


def _cut(layer: Layer, box: Box, crop: int = 0) -> Array:
    """The tile at `box`, of a layer with `crop` more rows and columns at each side."""
    assert layer.values is not None
    rows, columns = (slice(one.start + crop, one.start + crop + one.count) for one in box.sides)
    return _floats(layer.values[:, rows, columns])


def _floats(values: NDArray[Any]) -> Array:
    """Values as float32: uint8 are pixels, which become 0..1; others are as stored."""
    if values.dtype == np.uint8:
        return np.divide(values, 255, dtype=np.float32)
    return np.ascontiguousarray(widened(values))

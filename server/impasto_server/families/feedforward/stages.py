"""The backbones of a net in pieces, by stage; they are compiled when the first large picture comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.backbone import Backbone, Feeds, Row, samples
from impasto_server.engines.engine import Engine
from impasto_server.families.feedforward.painting import END, TileAsk
from impasto_server.families.feedforward.pieces import Conv, Norm, Pieces
from impasto_server.steps import Sample

Array = NDArray[np.float32]
VectorOf = Callable[[Any], Array]  # a row's context → γ and β [N]


class Piece(Backbone):
    """One graph on tiles. `norm` is the norm still to be applied to its input, with γ and β from `vector_of`.

    `engine` compiles the graph, once. `begun` is called before a picture's first tile. A piece frees its memory after
    the last tile of a layer, since there are many pieces and only one is busy at a time.
    """

    def __init__(
        self, engine: Callable[[], Engine], norm: Norm | None, vector_of: VectorOf, begun: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._norm = norm
        self._vector_of = vector_of
        self._begun = begun

    def prepare(self, row: Row, most: int, copies: int) -> None:
        """Do nothing: most servers never see a large picture."""

    def room(self, sample: Sample, most: int) -> int:
        """One row: a tile keeps all cores busy."""
        return 1

    def run(self, rows: Sequence[Row]) -> Array:
        if any(row.ask.step == 0 for row in rows):
            self._begun()
        engine = self._engine()
        (out,) = engine.run(self._fed(rows))
        if any(ask.last for ask in _asks(rows)):
            engine.release()
        return out

    def _fed(self, rows: Sequence[Row]) -> Feeds:
        asks, feeds = _asks(rows), Feeds(tile=samples(rows))
        for name in ("inside", "skip"):
            beside = [getattr(ask, name) for ask in asks]
            if beside[0] is not None:
                feeds[name] = np.stack(beside)
        return feeds if self._norm is None else feeds | self._scaled(rows, self._norm)

    def _scaled(self, rows: Sequence[Row], norm: Norm) -> Feeds:
        pairs = []
        for ask, row in zip(_asks(rows), rows, strict=True):
            assert ask.scaling is not None, "the layer before it is finished"
            pairs.append(ask.scaling.with_style(self._vector_of(row.context), norm.at))
        scales, shifts = (np.stack(side)[:, :, None, None] for side in zip(*pairs, strict=True))
        return {"scale": scales, "shift": shifts}


def _asks(rows: Sequence[Row]) -> list[TileAsk]:
    return [row.ask for row in rows if isinstance(row.ask, TileAsk)]


def stages(
    pieces: Pieces, opened: Callable[[str], Engine], vector_of: VectorOf, begun: Callable[[], None]
) -> Mapping[str, Piece]:
    """The piece of each stage. `opened` compiles a file, once for all stages that share it; `begun` is called before a
    picture's first tile."""
    files = {file: cache(partial(opened, file)) for file in pieces.files}  # only the step loop's thread calls these
    return {stage: Piece(files[file], norm, vector_of, begun) for stage, file, norm in _listed(pieces)}


def _listed(pieces: Pieces) -> Iterator[tuple[str, str, Norm | None]]:
    """Each stage with its file and the norm of its input."""
    norm: Norm | None = None
    for block in pieces.blocks:
        if isinstance(block, Conv):
            yield block.name, block.file, norm
            norm = block.norm
            continue
        if block.settle is not None:
            yield f"{block.first.name}.settle", block.settle, norm
        yield block.first.name, block.first.file, None
        yield block.second.name, block.second.file, block.first.norm
        yield f"{block.second.name}.join", block.join, block.second.norm
        norm = None
    yield END, pieces.end, norm

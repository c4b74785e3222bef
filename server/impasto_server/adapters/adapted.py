"""An engine whose graph reads its adapters from the bank; each lane of a batch has its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.bank import Bank
from impasto_server.adapters.form import told
from impasto_server.adapters.seat import Seat
from impasto_server.bundle import Bundle
from impasto_server.engines.engine import compile_graph
from impasto_server.engines.profiles import MOST_RANK
from impasto_server.engines.runtime import Runtime

Array = NDArray[Any]
Feeds = Mapping[str, Array]


class AdaptedEngine:
    """Told the seats of its lanes, it tells the graph which rows of the bank's tables those are.

    `weights` are the bundle's own (0), or those of its i-th pinned mix.
    """

    def __init__(self, bundle: Bundle, graph: str, runtime: Runtime, bank: Bank, weights: int = 0) -> None:
        self._bank = bank
        self._graph = graph
        self._kinds = bank.layout.kinds_in(graph)
        self._seen = bank.writes
        tables = bank.buffers.get(graph, {})
        self._engine = compile_graph(bundle.graph_path(graph, weights), runtime, tables)
        self._engine.bind(tables)

    def prepare(self, feeds: Feeds, seats: Sequence[Seat] = ()) -> None:
        self._look()
        self._engine.prepare(self._seated(feeds, seats))

    def run(self, feeds: Feeds, seats: Sequence[Seat] = ()) -> list[Array]:
        self._look()
        return self._engine.run(self._seated(feeds, seats))

    def _seated(self, feeds: Feeds, seats: Sequence[Seat]) -> Feeds:
        found = dict(feeds)
        for kind in self._kinds:
            rows, weights = told(kind)
            found[rows], found[weights] = _rows(seats, kind, self._bank.layout.page_rank(kind))
        return found

    def _look(self) -> None:
        """Have the engine know of the pages that were written since."""
        written = self._bank.writes
        if written == self._seen:
            return
        for kind in self._kinds:
            rank = self._bank.layout.page_rank(kind)
            for page in np.flatnonzero(self._bank.versions[kind] > self._seen):
                for _, inputs in self._bank.layout.inputs(self._graph, kind):
                    for name in inputs.values():
                        self._engine.write(name, int(page) * rank, self._bank.rows(self._graph, name, kind, int(page)))
        self._seen = written


def _rows(seats: Sequence[Seat], kind: str, rank: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows of tables and their weights, both [lanes, K], K the same for all: a few sizes alone, so that engines meet
    few.

    A lane without adapters has page 0 with the weight 1, which is what is neutral. Else page 0 fills up, with none.
    """
    lanes = [seat.pages.get(kind, ()) for seat in seats]
    count = bucket(max((len(pages) for pages in lanes), default=0), MOST_RANK // rank)
    pages, weights = np.zeros((len(lanes), count), np.int64), np.zeros((len(lanes), count), np.float32)
    for lane, named in enumerate(lanes):
        for place, (page, weight) in enumerate(named or ((0, 1.0),)):
            pages[lane, place], weights[lane, place] = page, weight
    rows = (rank * pages[:, :, None] + np.arange(rank)).reshape(len(lanes), count * rank)
    return rows, weights.repeat(rank, axis=1)


def bucket(pages: int, most: int) -> int:
    """The next power of two, 1 at least and `most` at most."""
    return min(1 << max(0, pages - 1).bit_length(), most)

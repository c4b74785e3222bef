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
    """Turns the seats of its lanes into rows of the bank's tables, and runs the graph on them.

    A batch without adapters runs the plain graph if that was prepared for it; else page 0 adds nothing. Merged weights
    take no adapters.

    `weights` are the bundle's own (0), or those of its i-th pinned mix.
    """

    def __init__(self, bundle: Bundle, graph: str, runtime: Runtime, bank: Bank, weights: int = 0) -> None:
        self._bank = bank
        self._graph = graph
        self._kinds = () if weights else bank.layout.kinds_in(graph)
        self._seen = bank.writes
        tables = bank.buffers[graph] if self._kinds else {}
        varying = {name: bank.layout.page_rank(kind) for kind in self._kinds for name in told(kind)}
        self._engine = compile_graph(bundle.graph_path(graph, weights), runtime, tables, varying)
        self._engine.bind(tables)
        plain = bundle.plain_path(graph) if self._kinds and graph in bundle.manifest.backbones.values() else None
        self._plain = None if plain is None else self._engine.plain(plain)

    @property
    def usual(self) -> tuple[Seat, ...]:
        """A seat of each kind that is worth preparing for: with one page of each form, with none, and with more."""
        one, more = (Seat(dict.fromkeys(self._kinds, ((0, 1.0),) * pages)) for pages in (1, 2))
        if not self._kinds:
            return (one,)
        return (one, more) if self._plain is None else (one, Seat(), more)

    def prepare(self, feeds: Feeds, seats: Sequence[Seat] = ()) -> None:
        self._look()
        if self._plain is not None and _none(seats):
            self._plain.prepare(feeds)
        else:
            self._engine.prepare(self._seated(feeds, seats))

    def run(self, feeds: Feeds, seats: Sequence[Seat] = ()) -> list[Array]:
        self._look()
        if self._plain is not None and _none(seats) and self._plain.ready(feeds):
            return self._plain.run(feeds)
        return self._engine.run(self._seated(feeds, seats))

    def release(self) -> None:
        """As Engine.release."""
        self._engine.release()

    def _seated(self, feeds: Feeds, seats: Sequence[Seat]) -> Feeds:
        found = dict(feeds)
        for kind in self._kinds:
            rows, weights = told(kind)
            found[rows], found[weights] = _rows(seats, kind, self._bank.layout.page_rank(kind))
        return found

    def _look(self) -> None:
        """Copy the pages that were written since to an engine that doesn't share the bank's memory."""
        written = self._bank.writes
        if written == self._seen or self._engine.shares:
            return
        for kind in self._kinds:
            rank = self._bank.layout.page_rank(kind)
            for page in np.flatnonzero(self._bank.versions[kind] > self._seen):
                for _, inputs in self._bank.layout.inputs(self._graph, kind):
                    for name in inputs.values():
                        self._engine.write(name, int(page) * rank, self._bank.rows(self._graph, name, kind, int(page)))
        self._seen = written


def _none(seats: Sequence[Seat]) -> bool:
    """Whether no seat has an adapter."""
    return not any(seat.pages for seat in seats)


def _rows(seats: Sequence[Seat], kind: str, rank: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Table rows and their weights, both [lanes, K]. K is the same for all lanes and has only a few values, so engines
    meet few shapes.

    A lane without adapters has page 0, which is neutral, with the weight 1. Other lanes are padded with page 0 of
    weight 0. K is never 0: OpenVINO refuses it, and ONNX Runtime leaves the sum at a 1x1 convolution unwritten.
    """
    lanes = [seat.pages.get(kind, ()) for seat in seats]
    most = max((len(pages) for pages in lanes), default=0)
    count = bucket(most, MOST_RANK // rank)
    pages, weights = np.zeros((len(lanes), count), np.int64), np.zeros((len(lanes), count), np.float32)
    for lane, named in enumerate(lanes):
        for place, (page, weight) in enumerate(named or ((0, 1.0),)):
            pages[lane, place], weights[lane, place] = page, weight
    rows = (rank * pages[:, :, None] + np.arange(rank)).reshape(len(lanes), count * rank)
    return rows, weights.repeat(rank, axis=1)


def bucket(pages: int, most: int) -> int:
    """`pages`, rounded up to a power of two: 1 to `most`."""
    return min(1 << (max(pages, 1) - 1).bit_length(), most)

"""The compiled backbone: rows of any requests in, predictions out.

The family says what a row feeds to the graph: nobody else looks into a row's context.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.seat import BackboneEngine, Seat
from impasto_server.steps import Ask, Sample

log = logging.getLogger(__name__)

Array = NDArray[np.float32]
Feeds = dict[str, NDArray[Any]]

WARMING_S = 20.0
RULES_LANES = (2, 3, 5, 4)  # classifier-free guidance, StyleDrop, its composition, DreamStyler


@dataclass(frozen=True)
class Row:
    """One lane of one step: the question, the family's context for it, and the seat of its adapters."""

    ask: Ask
    context: Any
    seat: Seat


class Backbone:
    """An engine for each set of weights, and the function that makes feeds of rows. Used by one thread at a time.

    A batch's samples may have at most `most_numbers` elements together, so few large ones go into a pass.
    """

    def __init__(
        self,
        engines: Sequence[BackboneEngine],
        feeds: Callable[[Sequence[Row]], Feeds],
        most_numbers: float = math.inf,
    ) -> None:
        self._engines = engines
        self._feeds = feeds
        self._most_numbers = most_numbers
        self._prepared: set[tuple[int, ...]] = set()  # weights, whether with adapters, lanes, shape
        self._blank: Any = None  # the context of the rows that were prepared with

    def prepare(self, row: Row, most: int, copies: int) -> None:
        """Make batches of rows like this one fast, for sizes up to `most`.

        The largest first, then those of a single request by rule, then the rest. It stops after WARMING_S seconds or
        `copies` batches, since an engine copies the weights for each. Other sizes still run, more slowly; a large
        backbone hardly notices.
        """
        started, self._blank = perf_counter(), row.context
        most = self.room(row.ask.sample, most)
        batches = dict.fromkeys([most, *(min(lanes, most) for lanes in RULES_LANES), *range(most, 0, -2), 1])
        kinds = [(number, seat) for number, engine in enumerate(self._engines) for seat in engine.usual]
        wanted = islice(product(batches, kinds), 3 * len(batches) * len(self._engines) // 2)
        for done, (lanes, (weights, seat)) in enumerate(wanted):
            if done >= copies or perf_counter() - started > WARMING_S:
                log.info("prepared only for batches of %s lanes", sorted({shape[2] for shape in self._prepared}))
                break
            self.prepare_for([replace(row, seat=replace(seat, merged=weights))] * lanes)

    def prepare_for(self, rows: Sequence[Row]) -> None:
        """Make batches like this one fast; all its rows are on the same weights."""
        seats = [row.seat for row in rows]
        self._engines[seats[0].merged].prepare(self._feeds(rows), seats)
        adapted = any(seat.pages for seat in seats)
        self._prepared.add((seats[0].merged, adapted, len(rows), *rows[0].ask.sample.shape))

    def room(self, sample: Sample, most: int) -> int:
        """How many rows of such samples fit a batch: 1 to `most`."""
        return max(1, int(min(most, self._most_numbers // max(1, sample.size))))

    def run(self, rows: Sequence[Row]) -> Array:
        """Predictions [rows, ...]; all samples have the same shape.

        Rows on different weights run in separate passes.
        """
        kinds = dict.fromkeys(row.seat.merged for row in rows)
        if len(kinds) == 1:
            return self._run(rows)
        found: dict[int, Array] = {}
        for kind in kinds:
            places = [place for place, row in enumerate(rows) if row.seat.merged == kind]
            found |= zip(places, self._run([rows[place] for place in places]), strict=True)
        return np.stack([found[place] for place in range(len(rows))])

    def _run(self, rows: Sequence[Row]) -> Array:
        """Predictions for rows on the same weights.

        Where the engine is prepared for one more row but not for these, an empty row is added: under no adapter, its
        output dropped.
        """
        weights = rows[0].seat.merged
        if not self._ready(rows, len(rows)) and self._ready(rows, len(rows) + 1):
            return self._run([*rows, Row(rows[0].ask, self._blank, Seat(merged=weights))])[:-1]
        (output,) = self._engines[weights].run(self._feeds(rows), [row.seat for row in rows])
        return output

    def _ready(self, rows: Sequence[Row], lanes: int) -> bool:
        """Whether so many lanes like these are prepared; a batch prepared with adapters also serves rows without."""
        adapted = any(row.seat.pages for row in rows)
        kinds = (True,) if adapted else (True, False)
        return any((rows[0].seat.merged, kind, lanes, *rows[0].ask.sample.shape) in self._prepared for kind in kinds)


def samples(rows: Sequence[Row]) -> NDArray[Any]:
    return np.stack([row.ask.sample for row in rows])

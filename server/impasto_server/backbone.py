"""The compiled backbone: rows in, predictions out, whoever they belong to.

A row is one lane of one step. What a graph is fed of it is the family's to say (diffusion.py, masked.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.engine import PREPARED_BYTES, Engine

log = logging.getLogger(__name__)

Array = NDArray[np.float32]
Feeds = dict[str, NDArray[Any]]

WARMING_S = 20.0
RULES_LANES = (2, 3, 5, 4)  # classifier-free guidance, StyleDrop, its composition, DreamStyler


@dataclass(frozen=True)
class Embeds:
    """A text, encoded: `hidden` [T, D] for every token, and what is `pooled` of them [P] where the encoder says so."""

    hidden: Array
    pooled: Array | None = None

    @property
    def nbytes(self) -> int:
        return self.hidden.nbytes + (0 if self.pooled is None else self.pooled.nbytes)


@dataclass(frozen=True)
class Hint:
    """What steers a row: `pixels` [3, H, W] in 0..1 at the picture's size, and the ControlNet's strength."""

    pixels: Array
    scale: float


@dataclass(frozen=True)
class Row:
    """`sample`, latents [C, h, w] or tokens [h, w], at a timestep; and the `slot` of its adapters in the bank."""

    sample: NDArray[Any]
    timestep: float
    context: Embeds
    slot: int
    hint: Hint | None = None


class Backbone:
    """An engine and how rows are fed to it. Used by one thread at a time."""

    def __init__(self, engine: Engine, feeds: Callable[[Sequence[Row]], Feeds]) -> None:
        self._engine = engine
        self._feeds = feeds
        self._prepared: set[tuple[int, ...]] = set()

    def prepare(self, row: Row, most: int, weights_bytes: int) -> None:
        """Make batches of rows like this one fast.

        The largest first, then those of a request that is alone, by rule, and so on, as far as memory and patience
        allow: a large backbone is left to run batches that it wasn't prepared for, where that shows little.
        """
        started = perf_counter()
        for lanes in dict.fromkeys([most, *(min(lanes, most) for lanes in RULES_LANES), *range(most, 0, -2), 1]):
            if len(self._prepared) * weights_bytes > PREPARED_BYTES or perf_counter() - started > WARMING_S:
                log.info("prepared for batches of %s lanes alone", sorted(shape[0] for shape in self._prepared))
                break
            self._engine.prepare(self._feeds([row] * lanes))
            self._prepared.add((lanes, *row.sample.shape))

    def run(self, rows: Sequence[Row]) -> Array:
        """Predictions [rows, ...]; all samples have the same shape.

        An empty row may be added where the engine is prepared for one more: under no adapter, read by nobody.
        """
        shape = rows[0].sample.shape
        if (len(rows), *shape) not in self._prepared and (len(rows) + 1, *shape) in self._prepared:
            return self.run([*rows, replace(rows[0], slot=0, hint=None)])[:-1]
        (output,) = self._engine.run(self._feeds(rows))
        return output


def samples(rows: Sequence[Row]) -> NDArray[Any]:
    return np.stack([row.sample for row in rows])


def hidden(rows: Sequence[Row]) -> Array:
    return np.stack([row.context.hidden for row in rows])


def slots(rows: Sequence[Row]) -> NDArray[np.int64]:
    return np.array([row.slot for row in rows], np.int64)

"""The compiled backbone: rows in, predictions out, whoever they belong to.

A row is one lane of one step. Rows that have a hint are seen by the ControlNet first, in a batch of their own; what it
says is added in the UNet, which runs all rows together. The others get zeros there, one number wide.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.bundle import Graph
from impasto_server.engine import PREPARED_BYTES, Engine

log = logging.getLogger(__name__)

Array = NDArray[np.float32]
Feeds = dict[str, NDArray[Any]]

WARMING_S = 20.0
RESIDUAL = "residual"  # in the name of every UNet input that the ControlNet fills


@dataclass(frozen=True)
class Hint:
    """What steers a row: `pixels` [3, H, W] in 0..1 at the picture's size, and the ControlNet's strength."""

    pixels: Array
    scale: float


@dataclass(frozen=True)
class Row:
    """`sample` [C, h, w] at a training timestep, `context` [T, D], and the `slot` of its adapters in the bank."""

    sample: Array
    timestep: float
    context: Array
    slot: int
    hint: Hint | None = None


class Backbone:
    """The UNet and, where the bundle has one, its ControlNet. Used by one thread at a time."""

    def __init__(self, graph: Graph, unet: Engine, controlnet: Engine | None) -> None:
        self._unet = unet
        self._controlnet = controlnet
        self._graph = graph
        self._prepared: set[tuple[int, ...]] = set()

    def prepare(self, row: Row, most: int, weights_bytes: int) -> None:
        """Make batches of rows like this one fast.

        The largest first, then those of one guided request, and so on, as far as memory and patience allow: a large
        backbone is left to run batches that it wasn't prepared for, where that shows little.
        """
        started = perf_counter()
        for lanes in dict.fromkeys([most, min(2, most), *range(most, 0, -2), 1]):
            if len(self._prepared) * weights_bytes > PREPARED_BYTES or perf_counter() - started > WARMING_S:
                log.info("prepared for batches of %s lanes alone", sorted(shape[0] for shape in self._prepared))
                break
            feeds = self._feeds([row] * lanes)
            self._unet.prepare(feeds)
            self._prepared.add(feeds["sample"].shape)

    def run(self, rows: Sequence[Row]) -> Array:
        """Predictions [rows, C, h, w]; all samples have the same shape.

        An empty row may be added where the UNet is prepared for one more: zeros under no adapter, read by nobody.
        """
        shape = rows[0].sample.shape
        if (len(rows), *shape) not in self._prepared and (len(rows) + 1, *shape) in self._prepared:
            empty = Row(np.zeros_like(rows[0].sample), 0, np.zeros_like(rows[0].context), 0)
            return self.run([*rows, empty])[:-1]
        (output,) = self._unet.run(self._feeds(rows))
        return output

    def _feeds(self, rows: Sequence[Row]) -> Feeds:
        slots = np.array([row.slot for row in rows], np.int64)
        return {**_lanes(rows), "slot": slots, **self._residuals(rows)}

    def _residuals(self, rows: Sequence[Row]) -> Feeds:
        hinted = [i for i, row in enumerate(rows) if row.hint is not None]
        plain = unsteered(self._graph, len(rows))
        if not hinted:
            return plain
        assert self._controlnet is not None, "a request with a hint was let in without a ControlNet"
        found = self._controlnet.run(_hinted([rows[i] for i in hinted]))
        if len(hinted) == len(rows):
            return dict(zip(plain, found, strict=True))
        spread = {}
        for name, residual in zip(plain, found, strict=True):
            spread[name] = np.zeros((len(rows), *residual.shape[1:]), np.float32)
            spread[name][hinted] = residual
        return spread


def unsteered(graph: Graph, rows: int) -> Feeds:
    """What the UNet's `graph` is fed in the place of a ControlNet's residuals: zeros [rows, C, 1, 1]."""
    ports = [port for port in graph.inputs if RESIDUAL in port.name]
    return {port.name: np.zeros((rows, int(port.shape[1]), 1, 1), np.float32) for port in ports}


def _lanes(rows: Sequence[Row]) -> Feeds:
    return {
        "sample": np.stack([row.sample for row in rows]),
        "timestep": np.array([row.timestep for row in rows], np.float32),
        "encoder_hidden_states": np.stack([row.context for row in rows]),
    }


def _hinted(rows: Sequence[Row]) -> Feeds:
    hints = [row.hint for row in rows if row.hint is not None]
    return {
        **_lanes(rows),
        "hint": np.stack([hint.pixels for hint in hints]),
        "conditioning_scale": np.array([hint.scale for hint in hints], np.float32),
    }

"""Random rows as graphs are fed with them, for passes that are timed without a family around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.bank import Bank
from impasto_server.adapters.form import told
from impasto_server.adapters.seat import Seat
from impasto_server.bundle import Manifest, Port


@dataclass(frozen=True)
class Batch:
    """What a forward pass of the backbone is given: feeds, and the seat of each lane."""

    feeds: Mapping[str, NDArray[Any]]
    seats: Sequence[Seat]


def batch(manifest: Manifest, lanes: int, bank: Bank) -> Batch:
    """Random rows of the default image size, each with an adapter of its own."""
    kinds = bank.layout.kinds_in(manifest.backbone)
    seats = [Seat({kind: ((1 + lane % (bank.pages[kind] - 1), 1.0),) for kind in kinds}) for lane in range(lanes)]
    return Batch(rows_of(manifest, lanes), seats)


def rows_of(manifest: Manifest, lanes: int) -> dict[str, NDArray[Any]]:
    """Random rows of the default image size, each at a timestep of its own, unsteered: what the backbone is fed."""
    rng = np.random.default_rng(lanes)
    sizes = {"lanes": lanes, **manifest.dimensions(manifest.image.width, manifest.image.height)}
    graph = manifest.graphs[manifest.backbone]
    told_by_seats = {name for site in graph.sites for name in told(site.kind)}

    def values(port: Port) -> NDArray[Any]:
        shape = [size if isinstance(size, int) else sizes.get(size, 1) for size in port.shape]
        if port.name == "timestep":
            return np.linspace(1, 999, lanes, dtype=np.float32)
        if port.dtype == "int64":
            return np.zeros(shape, np.int64)
        return rng.standard_normal(shape, np.float32)

    return {port.name: values(port) for port in graph.inputs if port.name not in told_by_seats}

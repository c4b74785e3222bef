"""Time the backbone at several batch sizes, and pick the one that `max_lanes` should be.

More lanes in a pass are more images per second up to a point, and make everyone wait longer for each step. So the pick
is the smallest size that is almost as fast as the best. Images of other sizes than the default aren't measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.adapted import AdaptedEngine
from impasto_server.adapters.bank import Bank
from impasto_server.adapters.form import told
from impasto_server.adapters.seat import Seat, SeatedEngine
from impasto_server.bundle import Bundle, Manifest, Port
from impasto_server.engines.calibration import Measured, Timing
from impasto_server.engines.engine import PREPARED_BYTES, stored
from impasto_server.engines.runtime import Runtime
from impasto_server.settings import Settings
from impasto_server.stats import Stats

Feeds = Mapping[str, NDArray[Any]]

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
ALMOST = 0.97  # of the best throughput
ROUNDS = (5, 25)  # at least, and at most
SECONDS = 30.0  # after which no more than the least number of rounds is run


@dataclass(frozen=True)
class Batch:
    """What a forward pass of the backbone is given: feeds, and the seat of each lane."""

    feeds: Feeds
    seats: Sequence[Seat]


def calibrate(bundle: Bundle, settings: Settings, runtime: Runtime) -> Measured:
    """Compile the backbone as a server would, and time batches of up to the runtime's lanes. Raises SetupError."""
    sizes = [size for size in SIZES if size <= runtime.max_lanes]
    bank = filled_bank(bundle.manifest, settings, runtime, max(sizes))
    engine = AdaptedEngine(bundle, bundle.manifest.backbone, runtime, bank)
    batches = {size: batch(bundle.manifest, size, bank) for size in sizes}
    for one in list(batches.values())[: 1 + PREPARED_BYTES // bundle.nbytes]:
        engine.prepare(one.feeds, one.seats)
    points = time_passes(engine, batches)
    return Measured(
        engine=runtime.engine,
        precision=runtime.precision,
        threads=runtime.threads,
        max_lanes=pick(points),
        latents=bundle.manifest.sample,
        cpu=runtime.device_name,
        bundle=bundle.manifest.digest,
        version=version("impasto"),
        points=points,
    )


def pick(points: Sequence[Timing]) -> int:
    """The fewest lanes whose throughput is within 3 % of the best."""
    best = max(point.lanes_per_second for point in points)
    return min(point.lanes for point in points if point.lanes_per_second >= ALMOST * best)


def time_passes(
    engine: SeatedEngine, batches: Mapping[int, Batch], clock: Callable[[], float] = perf_counter
) -> tuple[Timing, ...]:
    """Time `batches` (by lanes) in rounds, each size twice in a row: a neighbour's load then hits all sizes alike.

    The first pass of each size is kept apart: engines make kernels and buffers for a shape when they first see it.
    """

    def timed(size: int) -> float:
        start = clock()
        engine.run(batches[size].feeds, batches[size].seats)
        return 1000 * (clock() - start)

    first = {size: timed(size) for size in batches}
    switched, steady = defaultdict(list), defaultdict(list)
    least, most = ROUNDS
    end = clock() + SECONDS
    for done in range(most):
        if done >= least and clock() > end:
            break
        for size in batches:
            switched[size].append(timed(size))
            steady[size].append(timed(size))
    return tuple(
        Timing(
            lanes=size,
            ms=median(steady[size]),
            fastest_ms=min(steady[size]),
            switch_ms=median(switched[size]),
            first_ms=first[size],
        )
        for size in batches
    )


def filled_bank(manifest: Manifest, settings: Settings, runtime: Runtime, adapters: int) -> Bank:
    """A bank as a server has it, with random adapters of a page in it; memory that was never written reads too fast."""
    bank = Bank.of(manifest, settings, runtime, Stats())
    rng = np.random.default_rng(0)
    for kind in bank.layout.kinds_in(manifest.backbone):
        rank = bank.layout.page_rank(kind)
        for _, inputs in bank.layout.inputs(manifest.backbone, kind):
            for name in inputs.values():
                written = bank.buffers[manifest.backbone][name][rank : rank * (1 + adapters)]
                written[:] = stored(0.01 * rng.standard_normal(written.shape, np.float32), bank.layout.precision)
    return bank


def batch(manifest: Manifest, lanes: int, bank: Bank) -> Batch:
    """Random rows of the default image size, each with an adapter of its own."""
    kinds = bank.layout.kinds_in(manifest.backbone)
    seats = [Seat({kind: ((1 + lane % (bank.pages[kind] - 1), 1.0),) for kind in kinds}) for lane in range(lanes)]
    return Batch(rows_of(manifest, lanes), seats)


def rows_of(manifest: Manifest, lanes: int) -> dict[str, NDArray[Any]]:
    """Random rows of the default image size, each at a timestep of its own, unsteered: what the backbone is fed."""
    rng = np.random.default_rng(lanes)
    _, high, wide = manifest.sample
    sizes = {"lanes": lanes, "h": high, "w": wide}
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

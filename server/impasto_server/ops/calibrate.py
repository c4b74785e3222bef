"""`impasto calibrate`: it times the backbone at several batch sizes and picks one for `max_lanes`.

More lanes in a pass give more images per second, up to a point, but make everyone wait longer for each step. So it
picks the smallest size that is almost as fast as the best. Only images of the default size are measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from statistics import median
from time import perf_counter

import numpy as np

from impasto_server.adapters.bank import Bank
from impasto_server.adapters.seat import Seat
from impasto_server.backbone import Row
from impasto_server.bundle import Bundle, Manifest
from impasto_server.engines.calibration import Measured, Timing
from impasto_server.engines.engine import stored
from impasto_server.engines.footprint import copies
from impasto_server.engines.runtime import Runtime
from impasto_server.families import FAMILIES
from impasto_server.families.family import Parts
from impasto_server.settings import Settings
from impasto_server.stats import Stats

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
ALMOST = 0.97  # of the best throughput
ROUNDS = (5, 25)  # at least and at most
SECONDS = 30.0  # after this, only the least number of rounds is run


def calibrate(bundle: Bundle, settings: Settings, runtime: Runtime) -> Measured:
    """Compile the bundle as a server would, and time batches of its first stage, up to the runtime's lanes.

    Raises SetupError.
    """
    sizes = [size for size in SIZES if size <= runtime.max_lanes]
    bank = filled_bank(bundle.manifest, settings, runtime, max(sizes))
    parts = Parts.of(bundle, runtime, bank, Stats(), settings.host_bytes)
    family = FAMILIES[bundle.manifest.family].make(parts)
    stage, backbone = next(iter(family.backbones.items()))
    example = family.example(stage)
    batches = {size: batch(example, size, bank, bundle.manifest.backbone) for size in sizes}
    for rows in list(batches.values())[: copies(bundle.nbytes)]:
        backbone.prepare_for(rows)
    points = time_passes(backbone.run, batches)
    return Measured(
        engine=runtime.engine,
        precision=runtime.precision,
        threads=runtime.threads,
        max_lanes=pick(points),
        latents=example.ask.sample.shape,
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
    run: Callable[[Sequence[Row]], object],
    batches: Mapping[int, Sequence[Row]],
    clock: Callable[[], float] = perf_counter,
) -> tuple[Timing, ...]:
    """Time `batches` (by lanes) in rounds, each size twice in a row, so that other load affects all sizes alike.

    The first pass of each size counts separately: engines make kernels and buffers for a shape when they first see it.
    """

    def timed(size: int) -> float:
        start = clock()
        run(batches[size])
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
    """A bank as a server has it, with random adapters of one page each: unwritten memory would be read too fast."""
    bank = Bank.of(manifest, settings, runtime, Stats())
    rng = np.random.default_rng(0)
    for kind in bank.layout.kinds_in(manifest.backbone):
        rank = bank.layout.page_rank(kind)
        for _, inputs in bank.layout.inputs(manifest.backbone, kind):
            for name in inputs.values():
                written = bank.buffers[manifest.backbone][name][rank : rank * (1 + adapters)]
                written[:] = stored(0.01 * rng.standard_normal(written.shape, np.float32), bank.layout.precision)
    return bank


def batch(example: Row, lanes: int, bank: Bank, graph: str) -> list[Row]:
    """Rows like the family's example, each with its own adapter in `graph`."""
    kinds = bank.layout.kinds_in(graph)
    seats = [Seat({kind: ((1 + lane % (bank.pages[kind] - 1), 1.0),) for kind in kinds}) for lane in range(lanes)]
    return [replace(example, seat=seat) for seat in seats]

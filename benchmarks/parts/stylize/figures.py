"""What stands beside the rates: a pass on the engine alone, and the way from a style's name to its row."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

import numpy as np
from benchmarks.common.peaks import against_peak, peaks_gflops
from benchmarks.parts.stylize.places import Placed

from impasto_export.feedforward.net import Array
from impasto_server.adapters.adapter import Adapter
from impasto_server.adapters.registry import Registry
from impasto_server.adapters.residency import Named, Residency
from impasto_server.engines.engine import compile_graph
from impasto_server.engines.runtime import Runtime
from impasto_server.families import open_bundle
from impasto_server.families.feedforward.manifest import TRANSFORM, VECTOR
from impasto_server.families.feedforward.styles import Shares
from impasto_server.settings import Settings
from impasto_server.stats import Stats

PASSES = 7
SWITCHES = 2000


def roofline(placed: Placed, settings: Settings, sides: Sequence[int]) -> dict[int, dict[str, float]]:
    """By side: operations, time and share of the peak of one photo's pass, without a server around it."""
    bundle = open_bundle(placed.bundle)
    runtime = Runtime.of(settings).knowing(bundle.manifest)
    engine = compile_graph(bundle.graph_path(TRANSFORM), runtime)
    style = placed.vectors[placed.styles[0]][None]
    before, samples = peaks_gflops(), {}
    for side in sides:
        feeds = {"picture": np.random.default_rng(side).random((1, 3, side, side), np.float32), "style": style}
        samples[side] = [_ms(partial(engine.run, feeds)) for _ in range(PASSES + 1)][1:]
    after = peaks_gflops()
    peak = max(before[runtime.precision], after[runtime.precision])
    return {
        side: {**against_peak(placed.torch("f32").eager.gflop(side, side), spent, peak), "peak_gflops": peak}
        for side, spent in samples.items()
    }


def switch_ms(settings: Settings, placed: Placed) -> list[float]:
    """Random switches among the net's styles, which were all used once before."""
    manifest = open_bundle(placed.bundle).manifest
    residency = Residency(Registry(settings.registry), manifest, settings.host_bytes, Stats())
    names, draw = list(placed.styles), random.Random(0)
    for name in names:
        row(residency, name)
    samples = []
    for _ in range(SWITCHES):
        name = draw.choice(names)
        samples.append(_ms(partial(row, residency, name)))
    residency.close()
    return samples


def row(residency: Residency, name: str) -> Array:
    """What a pass is fed for a style in full strength."""
    named = Named(name, residency.resolve(name).result().digest, 1.0)
    adapter = residency.load([named])[named.digest].result()
    assert isinstance(adapter, Adapter)
    (site,) = adapter.factors[TRANSFORM].values()
    return Shares(((0, 1.0),), 1.0).mixed([site[VECTOR][0]], None)


def _ms(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return 1000 * (perf_counter() - started)

"""Forward passes of a backbone at full width: what does it cost that every row has another adapter?

mixed   row i of the batch under adapter i, by the bundle's graph
slot0   the same graph with no adapter on any row
plain   the backbone exported without adapter inputs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from benchmarks.common.backbones import NAMES, Backbone
from benchmarks.common.switching import Styles
from numpy.typing import NDArray

from impasto_server.adapters.bank import AdaptedEngine
from impasto_server.bundle import Bundle
from impasto_server.engines.engine import Engine, compile_graph
from impasto_server.families.diffusion.unet import unsteered
from impasto_server.ops.calibrate import batch
from impasto_server.settings import Settings

KINDS = ("mixed", "slot0", "plain")
LANES = len(NAMES)
WARM_UP = 2

Array = NDArray[Any]


@dataclass(frozen=True)
class Passes:
    """Engines and feeds by kind; a pass is timed as the step loop makes it, inputs and outputs included."""

    engines: Mapping[str, Engine]
    feeds: Mapping[str, Mapping[str, Array]]
    bank_rank: int

    @classmethod
    def of(cls, backbone: Backbone, settings: Settings) -> Passes:
        bundle = Bundle.open(backbone.bundle)
        styles = Styles.of(settings)
        rows = np.array([styles.pin(name) for name in NAMES], np.int64)
        styles.residency.close()
        graph = bundle.manifest.backbone
        adapted = AdaptedEngine(bundle, graph, settings, styles.bank)
        nothing = unsteered(bundle.manifest.graphs[graph], LANES)
        lanes = {**batch(bundle.manifest, LANES, styles.bank.slots), **nothing}
        plain = {name: array for name, array in lanes.items() if name not in (*nothing, "slot")}
        feeds = {"mixed": {**lanes, "slot": rows}, "slot0": {**lanes, "slot": np.zeros_like(rows)}, "plain": plain}
        engines = {"mixed": adapted, "slot0": adapted, "plain": compile_graph(backbone.plain, settings)}
        for kind in KINDS:
            engines[kind].prepare(feeds[kind])  # as a pipeline does for its largest batch
        rank = next(buffer.shape[-1] for name, buffer in styles.bank.buffers[graph].items() if name.endswith("A"))
        return cls(engines, feeds, rank)

    def output(self, kind: str) -> Array:
        return self.engines[kind].run(self.feeds[kind])[0]

    def time_ms(self, kind: str) -> float:
        started = perf_counter()
        self.output(kind)
        return 1000 * (perf_counter() - started)


def time_all(passes: Passes, rounds: int, done: Callable[[], object]) -> dict[str, list[float]]:
    """Milliseconds of each kind, one of each a round, in an order that moves on by one."""
    for kind in KINDS * WARM_UP:
        passes.output(kind)
    samples: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        for kind in (*KINDS[number % 3 :], *KINDS[: number % 3]):
            samples[kind].append(passes.time_ms(kind))
        done()
    return samples


def taxes(passes: Passes, samples: Mapping[str, list[float]]) -> dict[str, Any]:
    """What adapters cost in a pass; and what is said without one, beside what the plain graph says."""
    outputs = {kind: passes.output(kind) for kind in KINDS}
    return {
        "lora_tax": tax(samples, "plain"),
        "lora_tax_slot0": tax(samples, "slot0"),
        "lora_tax_parity": {
            f"{kind}_from_plain": difference(outputs[kind], outputs["plain"]) for kind in ("slot0", "mixed")
        },
    }


def tax(samples: Mapping[str, list[float]], without: str) -> float:
    """Median over rounds of mixed ÷ `without`."""
    return median(mixed / other for mixed, other in zip(samples["mixed"], samples[without], strict=True))


def difference(a: Array, b: Array) -> float:
    """Root mean square of a - b, relative to b's."""
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))

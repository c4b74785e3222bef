"""Forward passes of a backbone at full width: what does it cost that every lane has other adapters?

mixed   lane i of the batch under adapter i, a page of the bank
four    lane i under a mix of four, of a page each
none    no adapter on any lane, after batches that had some
plain   the backbone exported without adapter inputs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from benchmarks.common.backbones import NAMES, Backbone
from benchmarks.common.feeds import batch
from benchmarks.common.switching import Styles
from numpy.typing import NDArray

from impasto_server.adapters.adapted import AdaptedEngine
from impasto_server.adapters.seat import Seat
from impasto_server.engines.engine import compile_graph
from impasto_server.engines.runtime import Runtime
from impasto_server.families import open_bundle
from impasto_server.families.diffusion.unet import unsteered
from impasto_server.settings import Settings

KINDS = ("mixed", "four", "none", "plain")
LANES = len(NAMES)
FOUR = 4
WARM_UP = 2

Array = NDArray[Any]


@dataclass(frozen=True)
class Passes:
    """What runs a pass of each kind, as the step loop makes it, inputs and outputs included."""

    runs: Mapping[str, Callable[[], list[Array]]]
    page_rank: int

    @classmethod
    def of(cls, backbone: Backbone, settings: Settings) -> Passes:
        bundle, runtime = open_bundle(backbone.bundle), Runtime.of(settings)
        styles = Styles.of(settings)
        names = [[NAMES[(lane + more) % LANES] for more in range(FOUR)] for lane in range(LANES)]
        seats = {
            "mixed": [styles.take({each[0]: 1.0}) for each in names],
            "four": [styles.take(dict.fromkeys(each, 1 / FOUR)) for each in names],
            "none": [Seat()] * LANES,
        }
        styles.residency.close()
        graph = bundle.manifest.backbone
        adapted = AdaptedEngine(bundle, graph, runtime, styles.bank)
        nothing = unsteered(bundle.manifest.graphs[graph], LANES)
        lanes = {**batch(bundle.manifest, LANES, styles.bank).feeds, **nothing}
        plain_lanes = {name: array for name, array in lanes.items() if name not in nothing}
        plain = compile_graph(backbone.plain, runtime)
        for seat in adapted.usual:  # as a pipeline does where there is room for copies
            adapted.prepare(lanes, [seat] * LANES)
        plain.prepare(plain_lanes)
        runs = {kind: partial(adapted.run, lanes, seated) for kind, seated in seats.items()}
        return cls({**runs, "plain": partial(plain.run, plain_lanes)}, styles.bank.layout.page_rank("lora"))

    def output(self, kind: str) -> Array:
        return self.runs[kind]()[0]

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
        for kind in (*KINDS[number % len(KINDS) :], *KINDS[: number % len(KINDS)]):
            samples[kind].append(passes.time_ms(kind))
        done()
    return samples


def taxes(passes: Passes, samples: Mapping[str, list[float]]) -> dict[str, Any]:
    """What adapters cost in a pass; and what is said without one, beside what the plain graph says."""
    outputs = {kind: passes.output(kind) for kind in KINDS}
    return {
        "lora_tax": tax(samples, "mixed", "plain"),
        "lora_tax_four": tax(samples, "four", "plain"),
        "plain_tax": tax(samples, "none", "plain"),
        "lora_tax_parity": {
            f"{kind}_from_plain": difference(outputs[kind], outputs["plain"]) for kind in ("none", "mixed", "four")
        },
    }


def tax(samples: Mapping[str, list[float]], kind: str, other: str) -> float:
    """Median over rounds of the passes of one kind ÷ those of the other."""
    return median(one / two for one, two in zip(samples[kind], samples[other], strict=True))


def difference(a: Array, b: Array) -> float:
    """Root mean square of a - b, relative to b's."""
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))

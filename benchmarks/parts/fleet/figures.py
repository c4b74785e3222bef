"""What became of requests, and what it says of a way of routing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.common.bench import percentiles
from benchmarks.common.fleet_simulation import Run
from benchmarks.parts.fleet.traffic import Asked

Report = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """One answered request, in seconds: when it was due, and how long its answer took from then; and who gave it."""

    at_s: float
    took_s: float
    replica: int
    adapter: str


@dataclass(frozen=True)
class Segment:
    """One side's turn: its requests' outcomes, and what its `replicas` servers counted meanwhile."""

    outcomes: Sequence[Outcome]
    replicas: int
    loads: float
    writes: float

    def __add__(self, other: Segment) -> Segment:
        """Both turns together; the second begins when the first has ended."""
        later = max(one.at_s + one.took_s for one in self.outcomes)
        moved = [Outcome(later + one.at_s, one.took_s, one.replica, one.adapter) for one in other.outcomes]
        return Segment([*self.outcomes, *moved], self.replicas, self.loads + other.loads, self.writes + other.writes)

    @property
    def loads_per_100(self) -> float:
        """Adapters read from the registry for each 100 requests."""
        return 100 * self.loads / len(self.outcomes)

    @property
    def latency_s(self) -> Mapping[str, float]:
        """Percentiles of seconds."""
        return percentiles([one.took_s for one in self.outcomes])

    @property
    def busiest(self) -> float:
        """The requests of the busiest replica over the mean."""
        served = Counter(one.replica for one in self.outcomes)
        return max(served.values()) * self.replicas / len(self.outcomes)

    def goodput_rps(self, deadline_s: float) -> float:
        """Requests a second that were answered within the deadline."""
        seconds = max(one.at_s + one.took_s for one in self.outcomes) - min(one.at_s for one in self.outcomes)
        return sum(one.took_s <= deadline_s for one in self.outcomes) / seconds

    def hottest(self) -> Counter[int]:
        """How many requests of the most popular adapter each replica answered."""
        (adapter, _), *_ = Counter(one.adapter for one in self.outcomes).most_common(1)
        return Counter(one.replica for one in self.outcomes if one.adapter == adapter)

    def report(self, deadline_s: float) -> Report:
        """Its figures for --json."""
        hottest = self.hottest()
        return {
            "requests": len(self.outcomes),
            "loads_per_100": round(self.loads_per_100, 2),
            "bank_writes_per_100": round(100 * self.writes / len(self.outcomes), 2),
            "latency_s": dict(self.latency_s),
            "goodput_rps": round(self.goodput_rps(deadline_s), 3),
            "busiest_over_mean": round(self.busiest, 3),
            "hottest_requests": hottest.total(),
            "hottest_replicas": len(hottest),
            "hottest_most_on_one": round(max(hottest.values()) / hottest.total(), 3),
        }


def simulated(run: Run, asked: Sequence[Asked], warm_up: int) -> Segment:
    """A run in simulated time of these requests, as if it were a turn; the first `warm_up` of them aren't counted."""
    counted = {str(one.seed): one for one in asked[warm_up:]}
    done = [one for one in run.done if one.wanted.spread in counted]
    outcomes = [
        Outcome(counted[one.wanted.spread].at_s, one.took_s, one.replica, counted[one.wanted.spread].name)
        for one in done
    ]
    loads = sum(one.loads for one in done)
    return Segment(outcomes, run.replicas, loads, loads)


def compared(ours: Sequence[Segment], peer: Sequence[Segment], of: Callable[[Segment], float]) -> Report:
    """A figure of all of ours over that of all of the peer's, and between which values the turns' own quotients lie.

    Turns of the same number had the same requests, one after the other.
    """
    own = [_over(of(one), of(other)) for one, other in zip(ours, peer, strict=True)]
    return {
        "ratio": round(_over(of(together(ours)), of(together(peer))), 4),
        "range": [round(min(own), 4), round(max(own), 4)],
    }


def together(segments: Sequence[Segment]) -> Segment:
    """All turns of a side as one."""
    first, *others = segments
    for one in others:
        first = first + one
    return first


def ratios(sides: Mapping[str, Sequence[Segment]], ours: str, deadline_s: float) -> Report:
    """Ours over each of the others."""
    return {
        peer: {
            "loads": compared(sides[ours], sides[peer], lambda one: one.loads_per_100),
            "p50": compared(sides[ours], sides[peer], lambda one: one.latency_s["p50"]),
            "p95": compared(sides[ours], sides[peer], lambda one: one.latency_s["p95"]),
            "goodput": compared(sides[ours], sides[peer], lambda one: one.goodput_rps(deadline_s)),
        }
        for peer in sides
        if peer != ours
    }


def _over(one: float, other: float) -> float:
    """Their quotient; 1 where both are 0, as loads may be."""
    return 1.0 if one == other else one / other if other else math.inf

"""Requests of strangers, and what became of them: open-loop arrivals, latencies, goodput."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from benchmarks.common.bench import half_width, percentiles, prompt
from numpy.typing import NDArray

from impasto_server.request import Request

STEPS = (4, 8, 15, 25, 50)
GUIDANCE_SCALES = (1.0, 5.0)  # one lane, two lanes
DECK = [(steps, scale) for steps in STEPS for scale in (1.0, 5.0, 5.0, 5.0)]
STYLED = 0.9  # share of requests with an adapter
ZIPF = 1.1
GOOD_SLOWDOWN = 2.0  # a request is good when it takes at most so many times as long as alone
GOOD_SHARE = 0.95  # of requests that must be good

Bools = NDArray[np.bool_]
Kind = tuple[int, float]  # steps and guidance scale: what solo latency depends on


@dataclass(frozen=True)
class Arrival:
    """A request, and when it comes: seconds from the start."""

    at_s: float
    request: Request


@dataclass(frozen=True)
class Outcome:
    """One answered request, times in seconds: `latency_s` from its scheduled arrival, so a late sender hides nothing.

    `queue_s` until its first step, `solo_s` the usual latency of its kind alone. Nothing of a warm-up is counted.
    """

    at_s: float
    steps: int
    guidance_scale: float
    latency_s: float
    queue_s: float
    solo_s: float
    warm_up: bool

    @property
    def slowdown(self) -> float:
        return self.latency_s / self.solo_s


def kinds() -> list[Kind]:
    return [(steps, scale) for steps in STEPS for scale in GUIDANCE_SCALES]


def requests(count: int, adapters: Sequence[str], size: int, seed: int) -> list[Request]:
    """`count` requests, images `size` pixels square, in random order.

    Kinds are dealt from DECK, as often as they lie there. Adapters are Zipf-distributed, the first the most popular.
    """
    rng = np.random.default_rng(seed)
    ranked = np.arange(1, len(adapters) + 1) ** -ZIPF
    popularity = ranked / ranked.sum()
    return [
        Request(
            prompt=prompt(rng),
            seed=number,
            width=size,
            height=size,
            adapters=((str(rng.choice(adapters, p=popularity)), 1.0),) if rng.random() < STYLED else (),
            steps=DECK[dealt % len(DECK)][0],
            guidance_scale=DECK[dealt % len(DECK)][1],
        )
        for number, dealt in enumerate(rng.permutation(count))
    ]


def poisson(asked: Sequence[Request], rate: float, seed: int) -> list[Arrival]:
    """The requests in order, at the moments of a Poisson process of which is known that so many came.

    That is, independent of each other within len(asked) / rate seconds. Another rate at the same seed is the same
    process, played faster or slower.
    """
    moments = np.sort(np.random.default_rng(seed).random(len(asked))) * len(asked) / rate
    return [Arrival(float(at), request) for at, request in zip(moments, asked, strict=True)]


def summary(offered: float, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """One side at one offered load (requests a second), without the warm-up."""
    counted = [one for one in outcomes if not one.warm_up]
    good = sum(one.slowdown <= GOOD_SLOWDOWN for one in counted)
    seconds = max(one.at_s + one.latency_s for one in counted) - min(one.at_s for one in counted)
    return {
        "offered_rps": round(offered, 4),
        "requests": len(counted),
        "latency_s": percentiles([one.latency_s for one in counted]),
        "slowdown": percentiles([one.slowdown for one in counted]),
        "queue_s": percentiles([one.queue_s for one in counted]),
        "good_share": round(good / len(counted), 4),
        "good_share_half_width": round(half_width(good / len(counted), len(counted)), 4),
        "completed_rps": round(len(counted) / seconds, 4),
        "goodput_rps": round(good / seconds, 4),
    }


def sustained(shares: Mapping[float, float]) -> float:
    """The highest offered load up to which GOOD_SHARE of the requests are good, given their share at some loads.

    Between two loads the share is taken to fall in a straight line; at load 0 all are good, being alone.
    """
    below, share_below = 0.0, 1.0
    for load, share in sorted(shares.items()):
        if share < GOOD_SHARE:
            return below + (load - below) * (share_below - GOOD_SHARE) / (share_below - share)
        below, share_below = load, share
    return below


def swept(shares: Mapping[float, float]) -> float:
    """The highest of the loads themselves up to which it is so; 0 when it isn't at the lowest."""
    return max(
        (load for load in shares if all(shares[lower] >= GOOD_SHARE for lower in shares if lower <= load)), default=0.0
    )


def held(outcomes: Sequence[Outcome], batches: Sequence[int]) -> list[Outcome]:
    """The outcomes, had every answer been held until the last of its batch was done; `batches` as long as they."""
    done: dict[int, float] = {}
    for one, batch in zip(outcomes, batches, strict=True):
        done[batch] = max(done.get(batch, 0.0), one.at_s + one.latency_s)
    return [replace(one, latency_s=done[batch] - one.at_s) for one, batch in zip(outcomes, batches, strict=True)]


def ratio_interval(loads: Sequence[float], ours: Bools, peer: Bools) -> tuple[float, float]:
    """Where sustained(ours) / sustained(peer) lies in 95 % of 1000 redrawings of the requests.

    `ours` and `peer` [loads, requests] say who was good; a request is drawn with its luck at every load, on both sides.
    """
    rng = np.random.default_rng(0)

    def redrawn() -> float:
        drawn = rng.integers(ours.shape[1], size=ours.shape[1])
        at = [sustained(dict(zip(loads, good[:, drawn].mean(axis=1), strict=True))) for good in (ours, peer)]
        return at[0] / at[1]

    low, high = np.percentile([redrawn() for _ in range(1000)], [2.5, 97.5])
    return round(float(low), 4), round(float(high), 4)


def sample_size(seconds: float, each_s: float, runs: int) -> int:
    """Requests for each run, whole decks of them, so that `runs` take about `seconds`, a request `each_s`."""
    return max(1, int(seconds / runs / each_s / len(DECK))) * len(DECK)

"""What a fleet is asked for: few-step pictures under adapters of which a few are popular and most are rare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import mean

import numpy as np
from benchmarks.common.bench import prompt
from benchmarks.common.fleet_simulation import Arrival

from impasto_gateway.routing import Wanted

BUNDLE = "bundle"
ZIPF = 1.1
STEPS = (1, 2, 3, 6)  # as of distilled models; each as often as the others


@dataclass(frozen=True)
class Asked:
    """A request, and when it comes: seconds from the start. The k-th most popular adapter has the number k - 1."""

    at_s: float
    adapter: int
    steps: int
    prompt: str
    seed: int

    @property
    def name(self) -> str:
        """The adapter's name in the registry."""
        return adapter_name(self.adapter)

    @property
    def wanted(self) -> Wanted:
        """What routing looks at."""
        return Wanted(BUNDLE, frozenset({self.name}), str(self.seed))

    @property
    def arrival(self) -> Arrival:
        """The same for a simulated fleet."""
        return Arrival(self.at_s, self.wanted, self.steps / mean(STEPS))


def adapter_name(number: int) -> str:
    return f"style-{number:03d}"


def popularity(adapters: int) -> list[float]:
    """The share of requests that wear each, the most popular first: Zipf's law with the exponent 1.1."""
    weights = [rank**-ZIPF for rank in range(1, adapters + 1)]
    return [one / sum(weights) for one in weights]


def requests(count: int, per_s: float, adapters: int, seed: int) -> list[Asked]:
    """`count` requests of strangers at random times, `per_s` a second on average."""
    dice, words, at_s, found = Random(seed), np.random.default_rng(seed), 0.0, list[Asked]()
    shares = popularity(adapters)
    for number in range(count):
        at_s += dice.expovariate(per_s)
        adapter = dice.choices(range(adapters), shares)[0]
        found.append(Asked(at_s, adapter, dice.choice(STEPS), prompt(words), 1_000_000 * seed + number))
    return found


def sweep(adapters: int) -> list[Asked]:
    """Every adapter once, the rarest first, in one step: what comes before has loaded what there is room for."""
    return [Asked(0.0, number, 1, "a red boat", number) for number in reversed(range(adapters))]


def resident(count: int, adapters: Sequence[int], seed: int) -> list[Asked]:
    """`count` requests at once that wear `adapters` in turn; their steps are those of STEPS in turn."""
    return [
        Asked(0.0, adapters[number % len(adapters)], STEPS[number % len(STEPS)], "a red boat", seed + number)
        for number in range(count)
    ]

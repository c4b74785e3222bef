"""What one replica is measured at: a request, alone and in a crowd; the loading of an adapter; a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean, median
from time import perf_counter

from benchmarks.common.fleet_simulation import Machine
from benchmarks.parts.fleet.play import Side
from benchmarks.parts.fleet.traffic import STEPS, Asked, resident

from impasto_gateway.routing import Costs

STEP_APART = (1, 6)  # pictures of so many steps tell what a step takes
PASSES = 5


@dataclass(frozen=True)
class Measured:
    """Seconds on one core: `request_s` of a mean request in a crowd, `alone_s` of one alone, `load_s` of an adapter
    that must come from the store, `pass_s` of a forward pass of one row, `rest_s` of what a picture takes beside its
    passes.
    """

    request_s: float
    alone_s: float
    load_s: float
    pass_s: float
    rest_s: float

    @property
    def costs(self) -> Costs:
        """As routing weighs them. The disk has what the bank has, so each load costs the same."""
        return Costs(self.request_s, self.load_s, self.load_s)

    def at(self, capacity_rps: float, replicas: int) -> Measured:
        """The same while the machine is as fast as it was when so many replicas did that much."""
        return replace(self, request_s=replicas / capacity_rps)

    def machine(self, seats: int) -> Machine:
        """The replica in simulated time."""
        return Machine(self.costs, seats)


async def measured(side: Side, cold: Sequence[int], crowd: int) -> Measured:
    """Of the first replica of `side`, which must have nothing else to do. `cold` are adapters that nobody has used.

    A cold request and the same again take turns; what the first takes longer is the loading.
    """
    first, again = list[float](), list[float]()
    for number in cold:
        for spent, seed in ((first, number), (again, 1000 + number)):
            spent.append(await _seconds(side, replace(resident(1, [number], seed)[0], steps=1)))
    short, long = [
        median([await _seconds(side, Asked(0.0, cold[-1], steps, "a red boat", seed)) for seed in range(PASSES)])
        for steps in STEP_APART
    ]
    pass_s = max(0.0, long - short) / (STEP_APART[1] - STEP_APART[0])
    started = perf_counter()
    await side.as_able(resident(crowd, cold[-4:], seed=5000))
    request_s = (perf_counter() - started) / crowd
    load_s = max(0.0, median(a - b for a, b in zip(first, again, strict=True)))
    rest_s = max(0.0, short - STEP_APART[0] * pass_s)
    return Measured(request_s, rest_s + mean(STEPS) * pass_s, load_s, pass_s, rest_s)


async def _seconds(side: Side, asked: Asked) -> float:
    return (await side.ask(asked, perf_counter(), perf_counter())).took_s

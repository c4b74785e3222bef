"""Routing by adapters in simulated fleets, against round-robin: the same requests, seeds and machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import pytest
from benchmarks.common.fleet_simulation import (
    Arrival,
    Fleet,
    Machine,
    Outage,
    Router,
    Run,
    by_adapters,
    round_robin,
    zipf,
)

from impasto_gateway import routing
from impasto_gateway.routing import Costs, Wanted

REQUESTS, SEEDS = 4000, (7, 9)
BUSY, CALM = 0.87, 0.1  # of what the fleet can do
COSTS = Costs(request_s=1.0, write_s=1.0, fetch_s=2.0)
SEATS: Mapping[int, int] = {2: 112, 4: 56}  # for 200 adapters
ONE, SETS = (1.0,), (0.4, 0.4, 0.2)  # shares of requests that wear one adapter, two, three


def arrivals(replicas: int, seed: int, shares: Sequence[float] = ONE, busy: float = BUSY) -> list[Arrival]:
    worn = {1 + place: share for place, share in enumerate(shares)}
    return zipf(REQUESTS, busy * replicas / COSTS.request_s, seed, worn)


def ours(replicas: int) -> Router:
    return by_adapters(replicas, COSTS, SEATS[replicas])


def ran(replicas: int, router: Callable[[], Router], shares: Sequence[float] = ONE) -> Run:
    """A run with each seed, taken together."""
    machine = Machine(COSTS, SEATS[replicas])
    first, *more = (Fleet(replicas, machine, router()).run(arrivals(replicas, seed, shares)) for seed in SEEDS)
    return sum(more, first)


@cache
def usual(replicas: int, shares: Sequence[float] = ONE) -> Run:
    return ran(replicas, round_robin, shares)


@pytest.mark.parametrize("shares", [ONE, SETS], ids=["single", "sets"])
@pytest.mark.parametrize("replicas", [2, 4])
def test_half_the_loads_and_less_waiting(replicas: int, shares: Sequence[float]) -> None:
    run, other = ran(replicas, lambda: ours(replicas), shares), usual(replicas, shares)
    assert len(run.done) == len(other.done) == REQUESTS * len(SEEDS)
    assert run.loads <= 0.5 * other.loads
    assert run.quantile_s(0.95) <= 0.8 * other.quantile_s(0.95)
    assert run.imbalance <= 1.3


def test_a_load_that_counts_once_happens_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    run = ran(4, lambda: ours(4))
    monkeypatch.setattr(routing, "COUNTED", 1)
    once = ran(4, lambda: ours(4))
    assert once.loads > 1.2 * run.loads
    assert once.quantile_s(0.95) > 0.9 * run.quantile_s(0.95)


@pytest.mark.parametrize("seats", [28, 400])
def test_who_takes_banks_for_smaller_or_larger_still_does_better(seats: int) -> None:
    run, other = ran(4, lambda: by_adapters(4, COSTS, seats)), usual(4)
    assert run.loads <= 0.5 * other.loads
    assert run.quantile_s(0.95) <= 0.8 * other.quantile_s(0.95)
    assert run.imbalance <= 1.3


def test_the_hottest_adapter_is_served_by_several_when_one_is_not_enough() -> None:
    """Two of three requests wear it, and four replicas are busy: it needs more than two."""
    hot = [
        Arrival(one.at_s, Wanted("bundle", frozenset({"000"}), one.wanted.spread), one.work) for one in arrivals(4, 7)
    ]
    mixed = [one if place % 3 else other for place, (one, other) in enumerate(zip(hot, arrivals(4, 7), strict=True))]
    run = Fleet(4, Machine(COSTS, SEATS[4]), ours(4)).run(mixed)
    served = run.served("000")
    assert len(served) >= 3
    assert max(served.values()) < 0.5 * served.total()
    assert run.imbalance <= 1.3


def test_it_shrinks_back_when_it_is_calm() -> None:
    crowd, calm = arrivals(4, 7), arrivals(4, 8, busy=CALM)
    end_s = crowd[-1].at_s + 100.0
    later = [Arrival(end_s + one.at_s, one.wanted, one.work) for one in calm]
    run = Fleet(4, Machine(COSTS, SEATS[4]), ours(4)).run([*crowd, *later])
    hot = [one.replica for one in run.done if "000" in one.wanted.adapters]
    before, after = hot[: len(hot) // 3], hot[-len(hot) // 3 :]
    share = {replica: after.count(replica) / len(after) for replica in set(after)}
    assert max(share.values()) > 0.75, "nearly all of them go home"
    assert max(before.count(replica) for replica in set(before)) / len(before) < 0.6


@pytest.mark.parametrize("hears", [True, False], ids=["told", "not told"])
def test_replicas_that_leave_and_come_lose_nothing(hears: bool) -> None:
    """One of four is killed every 150 s, and is back after 20. Whoever isn't told believes its bank to be full."""
    arrived = arrivals(4, 7, busy=0.6)
    outages = [Outage(150.0 * (1 + place), 20.0, place % 4) for place in range(int(arrived[-1].at_s) // 150)]
    machine = Machine(COSTS, SEATS[4])
    run = Fleet(4, machine, by_adapters(4, COSTS, SEATS[4], hears)).run(arrived, outages)
    other = Fleet(4, machine, round_robin()).run(arrived, outages)
    assert len(outages) > 8
    assert len(run.done) == REQUESTS
    assert any(one.tries > 1 for one in run.done)
    assert run.loads <= 0.7 * other.loads
    assert run.quantile_s(0.95) <= other.quantile_s(0.95)


def test_the_same_seed_is_the_same_run() -> None:
    runs = [Fleet(2, Machine(COSTS, 9), by_adapters(2, COSTS, 9)).run(arrivals(2, 7)) for _ in range(2)]
    assert runs[0] == runs[1]

"""Several replicas: what does routing by adapters bring, and is anything lost when replicas die?

python benchmarks/fleet.py --json FILE --plot PNG

Replicas are `impasto serve` processes, each on one core. Few-step pictures are asked for under 200 adapters, a few of
them popular and most rare; a replica has room for 80.

routing  The gateway's policy against round-robin and random. Each has two replicas of its own, whose caches stay as
         its requests left them. They take turns with the same requests at the same times, and who isn't asked is idle.
         Four replicas, and smaller banks, are played in simulated time, at the costs that were measured on one replica.
faults   The gateway in front of three replicas, whose registry lies in an object store. Every 20 s the server of one,
         or all of it, is killed; between two kills the gateway's connections to one are cut; meanwhile all are
         replaced, one after the other, and the store is out of reach for 30 s. Nobody's request may be lost, and each
         picture must be what it was in quiet.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are scripts, none is installed

from benchmarks.common import bars
from benchmarks.common.bars import Bar, held_against_bars
from benchmarks.common.bench import machine, warning, write
from benchmarks.common.fleet_simulation import Arrival, Fleet, Router, at_random, by_adapters, round_robin
from benchmarks.parts.fleet import faults
from benchmarks.parts.fleet.chart import draw
from benchmarks.parts.fleet.costs import Measured, measured
from benchmarks.parts.fleet.figures import Report, Segment, ratios, simulated, together
from benchmarks.parts.fleet.place import Place, placed
from benchmarks.parts.fleet.play import Side, opened
from benchmarks.parts.fleet.replicas import started
from benchmarks.parts.fleet.store import Store, store
from benchmarks.parts.fleet.tables import markdown
from benchmarks.parts.fleet.traffic import Asked, adapter_name, requests, resident, sweep

OURS, PEER, RANDOM = "adapters", "round-robin", "random"
LOAD = 0.8  # of what the replicas can do where nothing must be loaded
PATIENCE = 5.0  # a request's deadline, in times of a mean one alone
SEED = 60
STORE_S, STORE_BYTES_PER_S = 0.05, 50e6  # a call to the registry's store, as if it were elsewhere; and a connection
PARTS = ("routing", "faults")
INTERRUPTED = 130  # exit status
REPLICAS, REPLICAS_IN_FAULTS, REPLICAS_SIMULATED = 2, 3, 4
BARS = [
    Bar("loads_over_round_robin", ("real", "simulated"), at_most=0.5),
    Bar("p95_over_round_robin", ("real", "simulated"), at_most=0.8),
    Bar("busiest_over_mean", ("real", "simulated"), at_most=1.3),
    Bar("hottest_replicas", ("real", "simulated"), at_least=2.0),
    Bar("requests", ("faults",), at_least=500.0),
    Bar("lost", ("faults",), at_most=0.0),
    Bar("different", ("faults",), at_most=0.0),
]
NOTES = [
    "loads_per_100: adapters read from the registry for each 100 requests, by the servers' own counter "
    "(impasto_adapter_loads). Bank, host memory and disk of a replica hold `seats` adapters each; the others come from "
    "an S3 on this machine, behind a wire on which a call takes 50 ms and a connection brings 50 MB a second.",
    "Before it is measured, each side is asked once for every adapter, the rarest first, and then for some requests "
    "like the measured ones, so that its caches are about as they would be after hours.",
    "ratios: a figure of our policy over the same of another, of all turns together; range: the quotients of single "
    "turns. All sides get the same requests at the same times in a turn, at 80 % of what two replicas were measured "
    "to do just before, without loads.",
    "goodput_rps: requests a second that were answered within deadline_s, which is 5 x the time of a mean one alone.",
    "busiest_over_mean: the requests of the busiest replica over the mean. hottest_*: on how many replicas the most "
    "popular adapter was served, and the largest share of its requests on one of them.",
    "Our policy weighs with the costs that were measured first, on one replica: request_s of a mean request in a "
    "crowd, load_s of an adapter. Who sends the requests runs on the same cores.",
    "simulated: the same policies in simulated time at these costs, where each replica has a core of its own and a "
    "load takes nothing from other requests. simulated_real plays the requests of the real turns, to be compared.",
    "faults: users send each request once; what isn't answered with a picture is lost. identical, different: the "
    "files, by sha256, against those of a quiet run on the same replicas. Passes have one row there.",
]


@dataclass(frozen=True)
class Scale:
    """How much is done. `turn` requests a turn, `settling` before the first, `pictures` different ones in faults."""

    adapters: int = 200
    rank: int = 16
    seats: int = 80
    turns: int = 3
    turn: int = 200
    settling: int = 100
    cold: int = 12
    crowd: int = 48
    simulated: int = 4000
    kills: int = 5
    every_s: float = 20.0
    outage_s: float = 30.0
    asked: int = 600
    pictures: int = 120


QUICK = Scale(
    adapters=40,
    rank=4,
    seats=16,
    turns=1,
    turn=40,
    settling=20,
    cold=5,
    crowd=12,
    kills=2,
    every_s=8.0,
    outage_s=8.0,
    asked=60,
    pictures=20,
)


@dataclass(frozen=True)
class Bench:
    """What the parts share."""

    place: Place
    scale: Scale
    cores: Sequence[int]
    bar: Progress

    def advance(self, what: str, total: int) -> Callable[[], None]:
        """A line of progress; what it returns is called once for each request."""
        return partial(self.bar.advance, self.bar.add_task(what, total=total))

    async def routing(self) -> Report:
        """Our policy beside others, in turns, on real replicas; then in simulated time."""
        names = map(adapter_name, range(self.scale.adapters))
        async with store(self.place.registry, names, STORE_S, STORE_BYTES_PER_S) as bucket:
            return await self._routing(bucket)

    async def _routing(self, bucket: Store) -> Report:
        place = self.place.replicas
        places = {name: place(name, REPLICAS, self.cores, bucket, apart=True) for name in (OURS, PEER, RANDOM)}
        running = [one for replicas in places.values() for one in replicas]
        async with started(running), AsyncExitStack() as stack:
            first = await stack.enter_async_context(opened(places[OURS][:1], round_robin()))
            rare = range(self.scale.adapters - self.scale.cold, self.scale.adapters)
            costs = await measured(first, rare, self.scale.crowd)
            sides = {
                name: await stack.enter_async_context(opened(places[name], router))
                for name, router in routers(REPLICAS, costs, self.scale.seats).items()
            }
            turns, rates = await self._turns(sides)
            capacity = {"1": await self.capacity(first), str(REPLICAS): rates[-1] / LOAD}
        deadline_s = PATIENCE * costs.alone_s
        return {
            "costs": {**asdict(costs), "seats": self.scale.seats, "adapter_bytes": self.place.adapter_bytes},
            "load": LOAD,
            "deadline_s": round(deadline_s, 4),
            "capacity_rps": {count: round(rate, 3) for count, rate in capacity.items()},
            "offered_rps": [round(rate, 3) for rate in rates],
            "real": fleet_report(turns, REPLICAS, deadline_s),
            "simulated_real": self.simulated_turns(costs, rates, deadline_s),
            "simulated": self.simulated(costs, REPLICAS_SIMULATED, self.scale.seats // 2, deadline_s),
            "simulated_banks": [
                self.simulated(costs, replicas, seats, deadline_s)
                for replicas in (REPLICAS, REPLICAS_SIMULATED)
                for seats in (self.scale.seats // 4, self.scale.seats // 2, self.scale.seats)
            ],
        }

    async def _turns(self, sides: Mapping[str, Side]) -> tuple[Mapping[str, list[Segment]], list[float]]:
        """Every side's turns, and the requests a second in them."""
        before = [*sweep(self.scale.adapters), *requests(self.scale.settling, 1.0, self.scale.adapters, SEED)]
        advance = self.advance("warm-up", len(before) * len(sides))
        for side in sides.values():
            await side.as_able(before, advance)
        turns: dict[str, list[Segment]] = {name: [] for name in sides}
        rates, advance = list[float](), self.advance("turns", self.scale.turns * self.scale.turn * len(sides))
        for number in range(self.scale.turns):
            rates.append(LOAD * await self.capacity(sides[OURS]))
            asked = requests(self.scale.turn, rates[-1], self.scale.adapters, SEED + 1 + number)
            for name in turned(list(sides), number):
                turns[name].append(await sides[name].turn(asked, advance))
        return turns, rates

    async def capacity(self, side: Side) -> float:
        """Requests a second where there are always some, of adapters that are loaded; the first ones aren't counted."""
        asked = resident(self.scale.crowd * len(side.replicas), range(4), seed=9000)
        await side.as_able(asked[: len(asked) // 4])
        began = perf_counter()
        await side.as_able(asked)
        return len(asked) / (perf_counter() - began)

    def simulated_turns(self, costs: Measured, rates: Sequence[float], deadline_s: float) -> Report:
        """The real turns in simulated time, each with what was asked before it."""
        turns: dict[str, list[Segment]] = {}
        for name in (OURS, PEER, RANDOM):
            for number, rate in enumerate(rates):
                then = costs.at(rate / LOAD, REPLICAS)
                before = requests(self.scale.simulated, rate, self.scale.adapters, SEED)
                asked = requests(self.scale.turn, rate, self.scale.adapters, SEED + 1 + number)
                later = [replace(one, at_s=before[-1].at_s + one.at_s) for one in asked]
                router = routers(REPLICAS, then, self.scale.seats)[name]
                run = Fleet(REPLICAS, then.machine(self.scale.seats), router).run(arrivals([*before, *later]))
                turns.setdefault(name, []).append(simulated(run, [*before, *later], len(before)))
        return fleet_report(turns, REPLICAS, deadline_s)

    def simulated(self, costs: Measured, replicas: int, seats: int, deadline_s: float) -> Report:
        """The first half of the requests warms up."""
        rate, turns = LOAD * replicas / costs.request_s, dict[str, list[Segment]]()
        asked = requests(self.scale.simulated, rate, self.scale.adapters, SEED)
        for name, router in routers(replicas, costs, seats).items():
            run = Fleet(replicas, costs.machine(seats), router).run(arrivals(asked))
            turns[name] = [simulated(run, asked, len(asked) // 2)]
        return {"seats": seats, **fleet_report(turns, replicas, deadline_s)}

    async def faults(self) -> Report:
        """What is lost, and what differs, while replicas die and are replaced."""
        asked = requests(self.scale.pictures, 1.0, self.scale.adapters, SEED)
        async with store(self.place.registry, (one.name for one in asked)) as bucket:
            one_row = ("--max-lanes", "1")
            replicas = self.place.replicas("faults", REPLICAS_IN_FAULTS, self.cores, bucket, *one_row)
            events = faults.plan(self.scale.kills, len(replicas), self.scale.every_s, self.scale.outage_s)
            async with started(replicas), faults.fleet(replicas, bucket) as fleet:
                quiet = await faults.quiet(fleet, asked, self.advance("quiet", len(asked)))
                advance = self.advance("faults", self.scale.asked)
                disturbed, course = await faults.disturbed(fleet, asked, events, self.scale.asked, advance)
        return {"replicas": len(replicas), **faults.report(quiet, disturbed, course)}


def routers(replicas: int, costs: Measured, seats: int) -> dict[str, Router]:
    return {OURS: by_adapters(replicas, costs.costs, seats), PEER: round_robin(), RANDOM: at_random(SEED)}


def arrivals(asked: Sequence[Asked]) -> list[Arrival]:
    return [one.arrival for one in asked]


def turned(names: Sequence[str], number: int) -> list[str]:
    """Another begins in each round."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


def fleet_report(turns: Mapping[str, Sequence[Segment]], replicas: int, deadline_s: float) -> Report:
    """Figures of each side over all its turns, and ours over the others'."""
    return {
        "replicas": replicas,
        "sides": {name: together(segments).report(deadline_s) for name, segments in turns.items()},
        "ratios": ratios(turns, OURS, deadline_s),
    }


def held(report: Report) -> list[Report]:
    """The figures that have bars."""
    figures: dict[str, Report] = {}
    for name in ("real", "simulated"):
        if name in report:
            over, ours = report[name]["ratios"][PEER], report[name]["sides"][OURS]
            figures[name] = {
                "loads_over_round_robin": float(over["loads"]["ratio"]),
                "p95_over_round_robin": float(over["p95"]["ratio"]),
                "busiest_over_mean": float(ours["busiest_over_mean"]),
                "hottest_replicas": float(ours["hottest_replicas"]),
            }
    if "faults" in report:
        figures["faults"] = {key: float(report["faults"][key]) for key in ("requests", "lost", "different")}
    return held_against_bars(figures, BARS)


async def measure(scale: Scale, parts: Sequence[str], bar: Progress) -> Report:
    """All that was asked for. A SIGTERM ends it as Ctrl-C does."""
    running = asyncio.current_task()
    assert running is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    with placed(scale.adapters, scale.rank, scale.seats, bar) as place:
        bench = Bench(place, scale, sorted(os.sched_getaffinity(0)), bar)
        found: Report = {"scale": asdict(scale), "notes": NOTES}
        if "routing" in parts:
            found |= await bench.routing()
        if "faults" in parts:
            found["faults"] = await bench.faults()
    return {"bars": held(found), **found}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw them")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="which (default: both)")
    parser.add_argument("--quick", action="store_true", help="a minute's run, whose figures say nothing")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    columns = (TextColumn("{task.description:10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    facts = machine()
    console.print(warning(facts))
    try:
        with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
            found = asyncio.run(measure(QUICK if asked.quick else Scale(), asked.parts, bar))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("stopped")
        raise SystemExit(INTERRUPTED) from None
    report = {**found, "machine": facts}
    write(report, asked.json)
    if asked.plot:
        draw(report, asked.plot)
    console.print(bars.table(report["bars"]))
    print(markdown(report))


if __name__ == "__main__":
    main()

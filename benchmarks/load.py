"""How many requests a second can be served well? In-flight batching against whole batches, on the same engine.

python benchmarks/load.py --json FILE --plot PNG

Requests of strangers arrive at random times, whether or not the earlier ones are done (open loop, Poisson): popular and
rare adapters, 4 to 50 steps, with and without guidance. The offered load is swept from a fraction of what the server
can do at all to more than that. At each load both sides get the same requests at the same times, one side after the
other, and the one whose turn it isn't has nothing to do:

ours   Pipeline: a request joins and leaves between any two steps.
peer   the same with a step loop that lets nobody join until every request of a batch is done (WholeBatches).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from impasto_server.engines.runtime import Runtime
from impasto_server.errors import ImpastoError
from impasto_server.families import open_bundle
from impasto_server.loop import Loop
from impasto_server.ops.calibrate import calibrate
from impasto_server.pipeline import Caller, Pipeline, Result, Running
from impasto_server.request import Request
from impasto_server.settings import Settings
from impasto_server.shared import Shared

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are scripts, none is installed

from benchmarks.common.bench import machine, warning, workspace, write
from benchmarks.common.flat import request_of
from benchmarks.parts.load.chart import draw
from benchmarks.parts.load.traffic import (
    DECK,
    GOOD_SHARE,
    GOOD_SLOWDOWN,
    GUIDANCE_SCALES,
    ZIPF,
    Arrival,
    Kind,
    Outcome,
    held,
    kinds,
    poisson,
    ratio_interval,
    requests,
    sample_size,
    summary,
    sustained,
    swept,
)

Report = dict[str, Any]

ADAPTERS = 24
LANES_LIMIT = 16  # of the calibration
LOADS = (0.05, 0.1, 0.17, 0.27, 0.45, 0.75, 1.05)
REST_S = 0.02  # of a time in which nobody is there
WARM_UP = 0.1  # the share of a load's requests, the first ones, that is not counted
SOLO_REPEATS = 7
BACKLOG = 60  # requests that are there at once when capacity is measured
MOST_REQUESTS = 100_000  # never turn one away: what waits shall be seen to wait
SEED = 40_000
NOTES = [
    f"A request is good when its latency is at most {GOOD_SLOWDOWN:g} x the median latency of its kind (steps and "
    "guidance) alone. Latency counts from the scheduled arrival.",
    f"goodput_at_p95_rps: the highest offered load at which {GOOD_SHARE:.0%} of the requests are good, that is, P95 of "
    f"latency / solo latency is at most {GOOD_SLOWDOWN:g}; interpolated between the loads of the sweep, and all are "
    "good at load 0. goodput_ratio: ours / peer's. measured_goodput_at_p95_rps: the highest load of the sweep itself "
    "at which and below which they were; 0 when none.",
    f"Times in which a side has no request are cut to {1000 * REST_S:g} ms, after which the next one comes: no latency "
    "changes by that, and all rates are as scheduled.",
    "goodput_ratio_interval_95: bootstrap over requests; the same ones come at every load, to both sides.",
    "peak_goodput_rps: the most good requests completed per second at any load of the sweep.",
    "peer answers a request when it is done itself. peer_held, computed from the same run, answers it when its whole "
    "batch is done, as a server that batches whole requests does.",
    "capacity_rps: requests per second of a backlog that is there at once. Loads are fractions of ours.",
    "good_share_half_width: 95 % confidence (Wilson), as if requests did not depend on each other; they do.",
]


class WholeBatches(Loop):
    """Run to completion: nobody joins a batch that has begun. `batches` is each request's batch, by its seed."""

    def __init__(self, batches: dict[int, int], *others: Any) -> None:
        self._arrived: list[Running] = []
        self._batches = batches
        super().__init__(*others)

    def _admit(self, running: list[Running], batch: int) -> bool:
        if running:
            return True
        super()._admit(self._arrived, batch)
        room = self._max_lanes
        for one in list(self._arrived):
            if one.missing <= room or not running:
                room -= one.missing
                self._arrived.remove(one)
                one.job.mark("joined")
                one.last_batch = batch
                self._batches[one.job.request.seeds.seed] = batch
                running.append(one)
        return bool(running)


@dataclass(frozen=True)
class Level:
    """One offered load, requests a second, and what became of its requests on every side."""

    rate: float
    sides: Mapping[str, Sequence[Outcome]]

    def good(self, side: str) -> list[bool]:
        return [one.slowdown <= GOOD_SLOWDOWN for one in self.sides[side] if not one.warm_up]


@dataclass(frozen=True)
class Bench:
    """Both sides, and what requests are made of."""

    ours: Pipeline
    peer: Pipeline
    batches: Mapping[int, int]
    max_lanes: int
    adapters: Sequence[str]
    bar: Progress

    def warm_up(self) -> None:
        """Let both sides meet every adapter, and their engines batches of every size."""
        one, two = (self.request(0, (8, scale)) for scale in GUIDANCE_SCALES)
        sizes = [[two] * (lanes // 2) + [one] * (lanes % 2) for lanes in range(1, self.max_lanes + 1)]
        everyone = [self.request(number, (4, 1.0)) for number in range(len(self.adapters))]
        for asked in self.bar.track([everyone, *sizes], description="warm-up"):
            for side in (self.ours, self.peer):
                offer(side, at_once(asked))

    def solo(self) -> dict[Kind, float]:
        """Median seconds of each kind of request alone, after one that isn't counted."""
        found = {}
        for kind in self.bar.track(kinds(), description="alone"):
            alone = [self.request(number, kind) for number in range(SOLO_REPEATS + 1)]
            seconds = [offer(self.ours, at_once([request]))[0].latency_s for request in alone]
            found[kind] = median(seconds[1:])
        return found

    def capacity(self, side: Pipeline) -> float:
        """Requests per second of a backlog."""
        asked = self.asked(BACKLOG)
        return BACKLOG / max(one.latency_s for one in offer(side, at_once(asked)))

    def at_load(self, rate: float, count: int, solo: Mapping[Kind, float]) -> Level:
        """The same arrivals, `rate` a second, for both sides in turn; at every rate the same requests."""
        asked = self.asked(count)
        arrivals = poisson(asked, rate, SEED)
        task = self.bar.add_task(f"{rate:.2f} a second", total=2 * count)
        advance = partial(self.bar.advance, task)
        ours = outcomes(arrivals, offer(self.ours, arrivals, advance), solo)
        peer = outcomes(arrivals, offer(self.peer, arrivals, advance), solo)
        batches = [self.batches[one.seeds.seed] for one in asked]
        return Level(rate, {"ours": ours, "peer": peer, "peer_held": held(peer, batches)})

    def asked(self, count: int) -> list[Request]:
        return requests(count, self.adapters, self.ours.manifest.image.width, SEED)

    def request(self, number: int, kind: Kind) -> Request:
        """One of `kind` with the adapter of that number."""
        size, adapter = self.ours.manifest.image.width, self.adapters[number % len(self.adapters)]
        steps, scale = kind
        return request_of(
            "a red boat", number, size, size, adapters=((adapter, 1.0),), steps=steps, guidance_scale=scale
        )


@dataclass(frozen=True)
class Answer:
    """Seconds from the scheduled arrival, and what came of the request."""

    latency_s: float
    result: Result


def offer(
    pipeline: Pipeline, arrivals: Sequence[Arrival], answered: Callable[[], object] = lambda: None
) -> list[Answer]:
    """Submit every request when it arrives, wait for all. Raises the ImpastoError of the first that got no picture.

    A time in which nobody is there is cut short: it's the same to those who come afterwards.
    """
    futures: list[Future[tuple[float, Result | ImpastoError]]] = [Future() for _ in arrivals]

    def done(future: Future[tuple[float, Result | ImpastoError]], outcome: Result | ImpastoError) -> None:
        future.set_result((perf_counter(), outcome))
        answered()

    start, dues = perf_counter(), []
    for number, arrival in enumerate(arrivals):
        wait(futures[:number], max(0.0, start + arrival.at_s - perf_counter()))
        start -= max(0.0, start + arrival.at_s - perf_counter() - REST_S)  # nobody is there, or the wait was longer
        dues.append(start + arrival.at_s)
        sleep(max(0.0, dues[-1] - perf_counter()))
        pipeline.submit(arrival.request, Caller(partial(done, futures[number])))
    return [_answer(due, *future.result()) for due, future in zip(dues, futures, strict=True)]


def _answer(arrived: float, done: float, outcome: Result | ImpastoError) -> Answer:
    if isinstance(outcome, ImpastoError):
        raise outcome
    return Answer(done - arrived, outcome)


def at_once(asked: Sequence[Request]) -> list[Arrival]:
    return [Arrival(0.0, request) for request in asked]


def outcomes(arrivals: Sequence[Arrival], answers: Sequence[Answer], solo: Mapping[Kind, float]) -> list[Outcome]:
    """In order of arrival; the first WARM_UP of them are not to be counted."""
    return [
        Outcome(
            at_s=arrival.at_s,
            steps=arrival.request.sampling.steps,
            guidance_scale=arrival.request.strengths["GUIDANCE_SCALE"],
            latency_s=answer.latency_s,
            queue_s=_queue_s(answer.result),
            solo_s=solo[arrival.request.sampling.steps, arrival.request.strengths["GUIDANCE_SCALE"]],
            warm_up=number < WARM_UP * len(arrivals),
        )
        for number, (arrival, answer) in enumerate(zip(arrivals, answers, strict=True))
    ]


def _queue_s(result: Result) -> float:
    timings = result.meta["timings"]
    assert isinstance(timings, dict)
    return float(timings["queue_ms"]) / 1000


def report(levels: Sequence[Level]) -> Report:
    """The figures of --json."""
    sides = {side: [summary(level.rate, level.sides[side]) for level in levels] for side in levels[0].sides}
    shares = {side: {one["offered_rps"]: one["good_share"] for one in found} for side, found in sides.items()}
    at_p95 = {side: sustained(share) for side, share in shares.items()}
    good = {side: np.array([level.good(side) for level in levels]) for side in sides}
    peak = {side: max(one["goodput_rps"] for one in found) for side, found in sides.items()}
    return {
        "goodput_ratio": round(at_p95["ours"] / at_p95["peer"], 4),
        "goodput_ratio_interval_95": ratio_interval([level.rate for level in levels], good["ours"], good["peer"]),
        "goodput_ratio_held": round(at_p95["ours"] / at_p95["peer_held"], 4),
        "peak_goodput_ratio": round(peak["ours"] / peak["peer"], 4),
        "goodput_at_p95_rps": {side: round(load, 4) for side, load in at_p95.items()},
        "measured_goodput_at_p95_rps": {side: swept(share) for side, share in shares.items()},
        "peak_goodput_rps": peak,
        "sides": sides,
    }


def measure(seconds: float, bar: Progress) -> Report:
    """Warm up, measure alone and full, then sweep for about `seconds`."""
    with workspace(ADAPTERS) as place:
        settings = Settings(place.bundle, place.registry, max_requests=MOST_REQUESTS)
        bundle = open_bundle(place.bundle)
        runtime = Runtime.of(replace(settings, max_lanes=LANES_LIMIT)).knowing(bundle.manifest)
        measured = calibrate(bundle, settings, runtime)
        settings = replace(settings, max_lanes=measured.max_lanes)
        batches: dict[int, int] = {}
        ours = Pipeline.load(settings)
        bundle = open_bundle(place.bundle)
        peer = Pipeline(bundle, settings, Shared.of(settings, [bundle]), partial(WholeBatches, batches))
        bench = Bench(ours, peer, batches, measured.max_lanes, place.adapters, bar)
        bench.warm_up()
        solo = bench.solo()
        capacity = {"ours": bench.capacity(ours), "peer": bench.capacity(peer)}
        usual = float(np.mean([solo[kind] for kind in DECK]))
        slowest = REST_S + max(usual, 1 / capacity["ours"], 1 / capacity["peer"])
        count = sample_size(seconds, slowest, runs=2 * len(LOADS))
        rates = [load * capacity["ours"] for load in LOADS]
        levels = [bench.at_load(rate, count, solo) for rate in rates]
        lanes = {"ours": lanes_per_step(ours), "peer": lanes_per_step(peer)}
        ours.close()
        peer.close()
    return {
        **report(levels),
        "capacity_rps": capacity,
        "lanes_per_step": lanes,
        "solo_s": [{"steps": steps, "guidance_scale": scale, "s": s} for (steps, scale), s in solo.items()],
        "calibration": measured.model_dump(),
        "loads": LOADS,
        "requests_per_load": count,
        "adapters": ADAPTERS,
        "zipf": ZIPF,
        "notes": NOTES,
        "samples": [{"offered_rps": level.rate, "sides": columns(level)} for level in levels],
    }


def lanes_per_step(side: Pipeline) -> float:
    counted = side.stats.read()
    return round(counted["lanes"] / counted["steps"], 3)


def columns(level: Level) -> Report:
    """Every outcome's fields as lists, in order of arrival."""
    names = [field.name for field in fields(Outcome)]
    return {
        side: {name: [getattr(one, name) for one in found] for name in names} for side, found in level.sides.items()
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    parser.add_argument("--plot", type=Path, required=True, metavar="PNG", help="where the curves go")
    parser.add_argument("--minutes", type=float, default=5.5, help="for the sweep itself (default 5.5)")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    bar_columns = (TextColumn("{task.description:14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    facts = machine()
    console.print(warning(facts))
    with Progress(*bar_columns, TimeRemainingColumn(), console=console) as bar:
        found = {**measure(60 * asked.minutes, bar), "machine": facts}
    write(found, asked.json)
    draw(found, asked.plot)
    console.print_json(data={key: value for key, value in found.items() if key not in ("notes", "samples")})


if __name__ == "__main__":
    main()

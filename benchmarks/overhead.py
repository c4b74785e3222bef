"""What does serving cost: HTTP over gRPC, gRPC over a loop in this process, and that loop over its forward passes?

python benchmarks/overhead.py --json FILE

Every round asks four in turn for the same picture, while the others are idle: a real Triton over gRPC; the same one
through a gateway over HTTP; a pipeline in this process; and bare engines on the same graphs, which run the picture's
forward passes and its decoding and nothing else. The order turns with every round. Each picture that came over gRPC is
held against the pipeline's, and each that came over HTTP against gRPC's. Then a crowd paints over HTTP, and traffic
that is refused comes beside it (parts/overhead/refusals.py).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from impasto_client import Client
from impasto_server.adapters.form import told
from impasto_server.engines.engine import Engine, compile_graph
from impasto_server.engines.runtime import Runtime
from impasto_server.front import opened
from impasto_server.ops.calibrate import filled_bank
from impasto_server.ops.serve import serve
from impasto_server.pipeline import Pipeline
from impasto_server.settings import Settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are scripts, none is installed

from benchmarks.common.bench import Workspace, interval, machine, prompt, timed, warning, workspace, write
from benchmarks.common.door import Caller, gateway, pixels
from benchmarks.common.feeds import batch
from benchmarks.common.flat import request_of
from benchmarks.parts.overhead import refusals

STEPS, GUIDANCE_SCALE, LANES = 25, 5.0, 2
ADAPTERS = 4
WARM_UP = 5
SEED = 30_000
CROWD, PAIRS = 8, 8
NOTES = [
    "http_ratio: median seconds of a picture through the gateway over HTTP / over gRPC, on one connection each; the "
    "pictures have their marks, and identical_http counts those whose compressed pixels are gRPC's byte for byte.",
    "refused: a crowd's pictures a second over HTTP with 200 requests a second beside it that are refused (unknown "
    "key, used-up key) / without, in windows that take turns; who sends them runs on the same machine.",
    "p50_ratio: median seconds of a picture over gRPC through Triton / median seconds of Pipeline.generate in this "
    "process; same settings and requests, one at a time. *_interval_95: bootstrap over rounds.",
    "image_time_ratio: median seconds of Pipeline.generate / (steps x median forward pass + median decoding), both of "
    "bare engines on the same graphs with the same lanes and a bank of the same size.",
    "Every round has a prompt of its own, so the text encoder runs for every picture; adapters are resident. The "
    "bare engines do neither text encoding nor image encoding.",
    "where_ms: medians of META's timings; wire is the client's time less META's total, loop is denoising less the "
    "bare forward passes, pixels is META's decoding less the bare decoding: conversion to uint8 and the PNG.",
    "denoise_difference_ms_per_step: (denoising under Triton - denoising in this process) / steps: all that differs "
    "between the two processes, such as the thread that asks Triton which callers are gone.",
    "idle_cpu: CPU seconds spent by the processes of the idle side / seconds of the others' turns.",
]


@dataclass(frozen=True)
class Painted:
    """One picture: seconds as its caller saw them, the file, and META."""

    seconds: float
    image: bytes
    meta: Mapping[str, Any]

    @property
    def timings(self) -> Mapping[str, float]:
        """Milliseconds."""
        found: Mapping[str, float] = self.meta["timings"]
        return found


@dataclass(frozen=True)
class Bare:
    """Engines without a pipeline, and what they need for one step and one decoding; `bank` is bound, and must live."""

    unet: Engine
    decoder: Engine
    bank: Mapping[str, NDArray[Any]]
    step: Mapping[str, NDArray[Any]]
    latents: NDArray[np.float32]

    @classmethod
    def load(cls, settings: Settings) -> Bare:
        """Compile the graphs as a pipeline does; every lane reads the same random adapter."""
        bundle = opened(settings)[0]
        runtime = Runtime.of(settings).knowing(bundle.manifest)
        bank = filled_bank(bundle.manifest, settings, runtime, LANES)
        rank, (rows, weights) = bank.layout.page_rank("lora"), told("lora")
        unet = compile_graph(bundle.graph_path("unet"), runtime, bank.buffers["unet"], {rows: rank, weights: rank})
        unet.bind(bank.buffers["unet"])
        page = {
            rows: np.tile(rank + np.arange(rank), (LANES, 1)),
            weights: np.ones((LANES, rank), np.float32),
        }
        step = {**batch(bundle.manifest, LANES, bank).feeds, **page}
        unet.prepare(step)  # as a pipeline does for the usual batches
        decoder = compile_graph(bundle.graph_path("vae_decoder"), runtime)
        return cls(unet, decoder, bank.buffers["unet"], step, step["sample"][:1])

    def paint(self) -> tuple[list[float], float]:
        """Seconds of each forward pass of one picture, and of its decoding."""
        forwards = [timed(lambda: self.unet.run(self.step))[0] for _ in range(STEPS)]
        return forwards, timed(lambda: self.decoder.run({"latents": self.latents}))[0]


@dataclass(frozen=True)
class Round:
    """The same picture from each side."""

    grpc: Painted
    http: Painted
    local: Painted
    forwards: Sequence[float]
    decode: float


@dataclass(frozen=True)
class Bench:
    """The four sides, and the adapters that requests take in turn."""

    client: Client
    caller: Caller
    pipeline: Pipeline
    bare: Bare
    adapters: Sequence[str]
    idle: IdleCpu

    def round(self, number: int) -> Round:
        text = prompt(np.random.default_rng(SEED + number)) + f" number {number}"
        seed, adapter = SEED + number, self.adapters[number % len(self.adapters)]
        turns: list[tuple[str, Callable[[], Any]]] = [
            ("grpc", lambda: self._grpc(text, seed, adapter)),
            ("http", lambda: self._http(text, seed, adapter)),
            ("local", lambda: self._local(text, seed, adapter)),
            ("bare", self.bare.paint),
        ]
        first = number % len(turns)
        found = {}
        for name, turn in turns[first:] + turns[:first]:
            with self.idle.watch("this_process" if name in ("grpc", "http") else "server"):
                found[name] = turn()
        return Round(found["grpc"], found["http"], found["local"], *found["bare"])

    def _grpc(self, text: str, seed: int, adapter: str) -> Painted:
        seconds, made = timed(
            lambda: self.client.generate(
                text, adapters=adapter, steps=STEPS, guidance_scale=GUIDANCE_SCALE, seed=seed, format="png"
            )
        )
        return Painted(seconds, made.data, made.meta)

    def _http(self, text: str, seed: int, adapter: str) -> Painted:
        said = {"steps": STEPS, "guidance_scale": GUIDANCE_SCALE, "seed": seed, "format": "png"}
        body = json.dumps({"prompt": text, "adapters": adapter, **said}).encode()
        seconds, (image, meta) = timed(lambda: self.caller.paint(body))
        return Painted(seconds, image, meta)

    def _local(self, text: str, seed: int, adapter: str) -> Painted:
        size = self.pipeline.manifest.image
        request = request_of(
            text,
            seed=seed,
            width=size.width,
            height=size.height,
            adapters=((adapter, 1.0),),
            steps=STEPS,
            guidance_scale=GUIDANCE_SCALE,
        )
        seconds, made = timed(lambda: self.pipeline.generate(request))
        return Painted(seconds, made.image, made.meta)


class IdleCpu:
    """CPU seconds that the side which should be idle takes from the one that is measured."""

    def __init__(self, server: Sequence[int]) -> None:
        self._processes = {"server": server, "this_process": [os.getpid()]}
        self._cpu = dict.fromkeys(self._processes, 0.0)
        self._wall = dict.fromkeys(self._processes, 0.0)

    @contextmanager
    def watch(self, idle: str) -> Iterator[None]:
        cpu, wall = cpu_seconds(self._processes[idle]), perf_counter()
        yield
        self._cpu[idle] += cpu_seconds(self._processes[idle]) - cpu
        self._wall[idle] += perf_counter() - wall

    def shares(self) -> dict[str, float]:
        return {idle: round(self._cpu[idle] / self._wall[idle], 4) for idle in self._cpu}


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time of living processes, in the kernel's ticks of about 10 ms."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


def http_ratio(rounds: Sequence[Round]) -> float:
    return median(one.http.seconds for one in rounds) / median(one.grpc.seconds for one in rounds)


def p50_ratio(rounds: Sequence[Round]) -> float:
    return median(one.grpc.seconds for one in rounds) / median(one.local.seconds for one in rounds)


def image_time_ratio(rounds: Sequence[Round]) -> float:
    return median(one.local.seconds for one in rounds) / bare_seconds(rounds)


def bare_seconds(rounds: Sequence[Round]) -> float:
    """steps x one forward + decode."""
    forward = median(seconds for one in rounds for seconds in one.forwards)
    return STEPS * forward + median(one.decode for one in rounds)


def where(rounds: Sequence[Round]) -> dict[str, dict[str, float]]:
    """Medians in ms of every stage, on either side."""
    forward = 1000 * median(seconds for one in rounds for seconds in one.forwards)
    decode = 1000 * median(one.decode for one in rounds)
    found = {"bare": {"forward": forward, "denoise": STEPS * forward, "decode": decode}}
    for side, painted in (("grpc", [one.grpc for one in rounds]), ("local", [one.local for one in rounds])):
        stages = {name: median(one.timings[name] for one in painted) for name in painted[0].timings}
        stages["wire_ms"] = median(1000 * one.seconds - one.timings["total_ms"] for one in painted)
        stages["loop_ms"] = stages["denoise_ms"] - STEPS * forward
        stages["pixels_ms"] = stages["decode_ms"] - decode
        found[side] = {name.removesuffix("_ms"): value for name, value in stages.items()}
    return {side: {name: round(value, 3) for name, value in stages.items()} for side, stages in found.items()}


def report(rounds: Sequence[Round]) -> dict[str, object]:
    """Everything that --json holds of the figures."""
    slower = [one.grpc.timings["denoise_ms"] - one.local.timings["denoise_ms"] for one in rounds]
    return {
        "http_ratio": round(http_ratio(rounds), 4),
        "http_ratio_interval_95": interval(http_ratio, rounds),
        "identical_http": sum(pixels(one.http.image) == pixels(one.grpc.image) for one in rounds),
        "p50_ratio": round(p50_ratio(rounds), 4),
        "p50_ratio_interval_95": interval(p50_ratio, rounds),
        "image_time_ratio": round(image_time_ratio(rounds), 4),
        "image_time_ratio_interval_95": interval(image_time_ratio, rounds),
        "identical_images": sum(one.grpc.image == one.local.image for one in rounds),
        "rounds": len(rounds),
        "steps": STEPS,
        "lanes": LANES,
        "http_p50_ms": round(1000 * median(one.http.seconds for one in rounds), 3),
        "grpc_p50_ms": round(1000 * median(one.grpc.seconds for one in rounds), 3),
        "local_p50_ms": round(1000 * median(one.local.seconds for one in rounds), 3),
        "bare_ms": round(1000 * bare_seconds(rounds), 3),
        "denoise_difference_ms_per_step": round(median(slower) / STEPS, 4),
        "where_ms": where(rounds),
        **{key: rounds[0].grpc.meta[key] for key in ("engine", "precision", "bundle")},
        "notes": NOTES,
        "samples": [_sample(one) for one in rounds],
    }


def _sample(one: Round) -> dict[str, object]:
    return {
        "http_s": one.http.seconds,
        "grpc_s": one.grpc.seconds,
        "grpc_timings_ms": one.grpc.timings,
        "local_s": one.local.seconds,
        "local_timings_ms": one.local.timings,
        "forward_s": list(one.forwards),
        "decode_s": one.decode,
    }


def measure(count: int, seconds: float, pairs: int, bar: Progress) -> dict[str, object]:
    """Warm up, then `count` rounds or as many as fit into `seconds`, then figures; and `pairs` of a crowd's windows."""
    with workspace(ADAPTERS) as place:
        found = alone(place, count, seconds, bar)
        return {**found, "refused": crowded(place, pairs)} if pairs else found


def crowded(place: Workspace, pairs: int) -> dict[str, object]:
    """A server that the crowd fills, behind a gateway with keys."""
    settings = Settings(place.bundle, place.registry, max_requests=CROWD)
    keys = refusals.keys_in(place.registry.parent)
    with serve(settings) as server, gateway(server.grpc_url, "--keys", str(keys.file)) as door:
        return refusals.measure(door, keys, CROWD, pairs).report()


def alone(place: Workspace, count: int, seconds: float, bar: Progress) -> dict[str, object]:
    """One picture at a time."""
    settings = Settings(place.bundle, place.registry)
    with serve(settings) as server, Client(server.grpc_url) as client, gateway(server.grpc_url) as door:
        caller, pids = Caller(door), [server.pid, *server.stubs, door.pid]
        sides = Pipeline.load(settings), Bare.load(settings)
        bench = Bench(client, caller, *sides, place.adapters, IdleCpu(pids))
        warming = [timed(partial(bench.round, n))[0] for n in bar.track(range(WARM_UP), description="warm-up")]
        count = max(1, min(count, int(seconds / median(warming))))
        bench = replace(bench, idle=IdleCpu(pids))
        measured = range(WARM_UP, WARM_UP + count)
        rounds = [bench.round(number) for number in bar.track(measured, description="rounds")]
        bench.pipeline.close()
        caller.close()
    return {**report(rounds), "idle_cpu": bench.idle.shares()}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    parser.add_argument("--rounds", type=int, default=200, help="pictures from each side, at most (default 200)")
    parser.add_argument("--minutes", type=float, default=6.0, help="for the rounds, at most (default 6)")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"of windows of the crowd; 0: none (default {PAIRS})")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    facts = machine()
    console.print(warning(facts))
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        found = {**measure(asked.rounds, 60 * asked.minutes, asked.pairs, bar), "machine": facts}
    write(found, asked.json)
    console.print_json(data={key: value for key, value in found.items() if key not in ("notes", "samples")})


if __name__ == "__main__":
    main()

"""Eight users with eight adapters, their own steps, guidance and schedulers: how fast, against what else there is?

python benchmarks/mixed.py --json FILE [--backbone mini] [--rounds 3]

On each backbone (see backbones.py), in one process and on the same threads: every round has the mixed crowd served by
the pipeline, then by diffusers with PEFT, then a uniform crowd by the pipeline; figures are medians over rounds, the
warm-up isn't counted. Pictures of the mixed crowd, painted side by side, are held against diffusers' in fp32.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are scripts, none is installed

from benchmarks import crowd, passes, roofline, switching
from benchmarks.backbones import BACKBONES, Backbone
from benchmarks.bench import machine
from benchmarks.crowd import Burst, Crowd
from benchmarks.peer import Peer

from impasto_server.bundle import Bundle
from impasto_server.diffusion import Diffusion
from impasto_server.engine import resolve_precision
from impasto_server.pipeline import Pipeline
from impasto_server.settings import Settings

Images = list[NDArray[np.uint8]]
Report = dict[str, Any]

ROUNDS = {"mini": 5, "unet140": 3}
STEPS = {"mini": (16, 10, 12, 14, 18, 20, 22, 24), "unet140": (8, 4, 5, 6, 7, 9, 10, 11)}
PASS_ROUNDS = 9
SWITCHES = 32
PEER_LANES, PEER_PASSES = 2, 7
PACKAGES = ("diffusers", "peft", "torch", "transformers")
NOTES = {
    "throughput_ratio_vs_diffusers_peft": "pictures per second, pipeline ÷ diffusers + PEFT in torch bf16; median over "
    "rounds. Both paint the same eight requests; diffusers' PNG encoding is left out, the pipeline's is in.",
    "heterogeneity": "lane-steps per second of the mixed crowd ÷ the uniform one's, everyone asking again when served, "
    "over as many lane-steps; heterogeneity_burst: the same of eight requests from start to end, with its tail.",
    "lora_tax": "forward pass of 8 lanes, each under another adapter ÷ the same batch by the backbone exported without "
    "adapter inputs; lora_tax_slot0: ÷ the same batch by the same graph without adapters.",
    "resident_switch_ms": "a request's way from an adapter's name to its row of the bank and the row's release, by "
    "number of registered adapters; the largest of the three medians.",
    "cold_load_ms": "the same of an adapter's first use, its file in the page cache.",
    "fuse_unfuse_ms": "diffusers' fuse_lora and unfuse_lora of one adapter, together.",
    "parity_psnr_db_min": "worst of eight pictures of the mixed crowd, side by side in f32, against diffusers' in fp32 "
    "(identical: 138 dB); _bf16: pipeline in bf16; _peer_bf16: diffusers in bf16.",
    "wrong_adapter_psnr_db_max": "the same with every user under the next one's adapter: what parity would be if "
    "adapters were mixed up.",
}


@dataclass(frozen=True)
class Bar:
    key: str
    backbones: tuple[str, ...]
    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"


BOTH = ("mini", "unet140")
BARS = (
    Bar("throughput_ratio_vs_diffusers_peft", BOTH, at_least=2.5),
    Bar("lora_tax", ("unet140",), at_most=1.10),
    Bar("heterogeneity", BOTH, at_least=0.95),
    Bar("resident_switch_ms", BOTH, at_most=0.1),
    Bar("parity_psnr_db_min", BOTH, at_least=40),
)


@dataclass(frozen=True)
class Steps:
    """Tells a person what is going on."""

    bar: Progress

    def begin(self, what: str, total: int) -> Callable[[], object]:
        """Returns what to call after each of `total`."""
        if not self.bar.console.is_terminal:
            self.bar.console.log(what)
        task = self.bar.add_task(what, total=total)
        return lambda: self.bar.advance(task)


@dataclass(frozen=True)
class Samples:
    """Of each round: seconds for a burst of eight pictures, lane-steps per second of a steady crowd."""

    ours_s: list[float] = field(default_factory=list)
    peer_s: list[float] = field(default_factory=list)
    uniform_s: list[float] = field(default_factory=list)
    steady_mixed: list[float] = field(default_factory=list)
    steady_uniform: list[float] = field(default_factory=list)


def pixels(painted: Burst) -> Images:
    return [np.asarray(Image.open(BytesIO(result.image))) for result in painted.results]


def psnr_db(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal to noise; 138 dB where nothing differs."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def each_psnr_db(ours: Images, theirs: Images) -> list[float]:
    return [psnr_db(a, b) for a, b in zip(ours, theirs, strict=True)]


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Median of the rounds' own quotients: what slows the machine for a while slows both of a round."""
    return median(a / b for a, b in zip(over, under, strict=True))


@contextmanager
def opened(settings: Settings) -> Iterator[Pipeline]:
    pipeline = Pipeline.load(settings)
    try:
        yield pipeline
    finally:
        pipeline.close()


@dataclass(frozen=True)
class Bench:
    """One backbone under measurement."""

    backbone: Backbone
    settings: Settings
    rounds: int
    steps: Steps

    def measure(self) -> Report:
        """All of its figures, with the samples they come from."""
        image = Bundle.open(self.backbone.bundle).manifest.image
        mixed = crowd.mixed(STEPS[self.backbone.name], image.width, image.height)
        reference, parity = self._parity(mixed)
        peer = Peer(self.backbone, torch.bfloat16)
        samples, bf16 = self._speed(mixed, peer, reference)
        return {
            "throughput_ratio_vs_diffusers_peft": ratio(samples.peer_s, samples.ours_s),
            "heterogeneity": ratio(samples.steady_mixed, samples.steady_uniform),
            "heterogeneity_burst": ratio(samples.uniform_s, samples.ours_s),
            "images_per_second": len(mixed) / median(samples.ours_s),
            "peer_images_per_second": len(mixed) / median(samples.peer_s),
            **parity,
            **bf16,
            **self._passes(peer),
            **self._switching(peer),
            "samples": asdict(samples),
            "users": [asdict(request) for request in mixed],
            "lane_steps": crowd.lane_steps(mixed),
        }

    # parity and speed of pictures

    def _parity(self, mixed: Crowd) -> tuple[Images, Report]:
        """What diffusers paints in fp32, and how far from it the pipeline is in f32."""
        done = self._begin("parity in f32", 3)
        with opened(replace(self.settings, precision="f32")) as pipeline:
            ours = pixels(crowd.burst(pipeline, mixed))
            done()
            wrong = pixels(crowd.burst(pipeline, crowd.wrong_adapters(mixed)))
            done()
            reference = painted(Peer(self.backbone, torch.float32), pipeline, mixed)
            done()
        each = each_psnr_db(ours, reference)
        apart = max(each_psnr_db(wrong, reference))
        return reference, {"parity_psnr_db_min": min(each), "parity_psnr_db": each, "wrong_adapter_psnr_db_max": apart}

    def _speed(self, mixed: Crowd, peer: Peer, reference: Images) -> tuple[Samples, Report]:
        """Samples of the interleaved rounds; the warm-up shows what bf16 does to pictures on either side."""
        done = self._begin("warm-up", 3)
        with opened(self.settings) as pipeline:
            ours = each_psnr_db(pixels(crowd.burst(pipeline, mixed)), reference)
            done()
            theirs = each_psnr_db(painted(peer, pipeline, mixed), reference)
            done()
            crowd.burst(pipeline, crowd.uniform(mixed))
            done()
            samples = self._rounds(pipeline, peer, mixed)
        return samples, {"parity_psnr_db_min_bf16": min(ours), "parity_psnr_db_min_peer_bf16": min(theirs)}

    def _rounds(self, pipeline: Pipeline, peer: Peer, mixed: Crowd) -> Samples:
        samples = Samples()
        done = self._begin("rounds", 5 * self.rounds)
        for number in range(self.rounds):
            new = crowd.fresh(mixed, number)
            samples.ours_s.append(crowd.burst(pipeline, new).seconds)
            done()
            samples.peer_s.append(seconds(painted, peer, pipeline, new))
            done()
            samples.uniform_s.append(crowd.burst(pipeline, crowd.uniform(new)).seconds)
            done()
            samples.steady_mixed.append(crowd.steady(pipeline, new))
            done()
            samples.steady_uniform.append(crowd.steady(pipeline, crowd.uniform(new)))
            done()
        return samples

    # forward passes

    def _passes(self, peer: Peer) -> Report:
        """The adapters' price in a pass, and what share of the machine's arithmetic passes use."""
        built = passes.Passes.of(self.backbone, self.settings)
        before = roofline.peaks_gflops()
        samples = passes.time_all(built, PASS_ROUNDS, self._begin("forward passes", PASS_ROUNDS))
        outputs = {kind: built.output(kind) for kind in passes.KINDS}
        theirs = peer.pass_ms(PEER_LANES, PEER_PASSES + 1)[1:]
        peaks = {kind: max(rate, before[kind]) for kind, rate in roofline.peaks_gflops().items()}
        return {
            "lora_tax": passes.tax(samples, "plain"),
            "lora_tax_slot0": passes.tax(samples, "slot0"),
            "lora_tax_parity": {
                "slot0_from_plain": passes.difference(outputs["slot0"], outputs["plain"]),
                "mixed_from_plain": passes.difference(outputs["mixed"], outputs["plain"]),
            },
            "roofline": self._roofline({**samples, "peer": theirs}, built.bank_rank, peaks),
            "peer_attention_ms": peer.attention_ms,
            "pass_ms": {**samples, "peer": theirs},
        }

    def _roofline(self, samples: Mapping[str, Sequence[float]], rank: int, peaks: Mapping[str, float]) -> Report:
        """`peaks` are the best of before and after the passes: a machine that slows down in between isn't the peak."""
        precision = resolve_precision(self.settings.engine, self.settings.precision)
        tokens = Bundle.open(self.backbone.bundle).manifest.tokenizer.max_length
        plain = roofline.plain_gflop(self.backbone.unet(), passes.LANES, tokens)
        adapted = roofline.adapted_gflop(self.backbone.unet(), passes.LANES, tokens, rank)
        return {
            "precision": precision,
            "peak_gflops": peaks,
            "mixed": roofline.against_peak(adapted, samples["mixed"], peaks[precision]),
            "plain": roofline.against_peak(plain, samples["plain"], peaks[precision]),
            "peer": roofline.against_peak(plain * PEER_LANES / passes.LANES, samples["peer"], peaks["bf16"]),
            "parameters": sum(parameter.numel() for parameter in self.backbone.unet().parameters()),
        }

    # adapters

    def _switching(self, peer: Peer) -> Report:
        done = self._begin("switching", switching.ROUNDS * len(switching.REGISTERED))
        resident = switching.resident_switch_ms(self.backbone, done)
        medians = {str(registered): median(samples) for registered, samples in resident.items()}
        cold, peers = switching.cold_load_ms(self.backbone), peer.set_adapters_ms(SWITCHES)
        fused = peer.fuse_unfuse_ms()
        return {
            "resident_switch_ms": max(medians.values()),
            "resident_switch_ms_by_registered": medians,
            "resident_switch_ms_p99": {str(n): float(np.percentile(samples, 99)) for n, samples in resident.items()},
            "cold_load_ms": median(cold),
            "set_adapters_ms": median(peers),
            "fuse_unfuse_ms": median(fused),
            "adapter_samples_ms": {"cold_load": cold, "set_adapters": peers, "fuse_unfuse": fused},
        }

    def _begin(self, what: str, total: int) -> Callable[[], object]:
        return self.steps.begin(f"{self.backbone.name}: {what}", total)


def painted(peer: Peer, pipeline: Pipeline, asked: Crowd) -> Images:
    """By diffusers, one after another, from the pipeline's noise."""
    family = pipeline._family
    assert isinstance(family, Diffusion)
    return [peer.paint(one, family.noise(one.seed, one.width, one.height)) for one in asked]


def seconds(work: Callable[..., object], *args: object) -> float:
    started = perf_counter()
    work(*args)
    return perf_counter() - started


# the report


def held_against_bars(figures: Mapping[str, Report], bars: Sequence[Bar] = BARS) -> list[Report]:
    """Every bar whose backbone was measured: the figure, the bar, whether it's met."""
    found: list[Report] = []
    for bar in bars:
        for name in bar.backbones:
            if name in figures:
                value = figures[name][bar.key]
                assert isinstance(value, float)
                found.append({"key": bar.key, "backbone": name, "value": value, "bar": str(bar), "met": bar.met(value)})
    return found


def table(bars: Sequence[Report]) -> Table:
    shown = Table("figure", "backbone", "value", "bar", "")
    for row in bars:
        mark = "[green]met[/]" if row["met"] else "[red]missed[/]"
        shown.add_row(str(row["key"]), str(row["backbone"]), f"{row['value']:.3f}", str(row["bar"]), mark)
    return shown


def facts(settings: Settings) -> Report:
    found = dict(machine())
    found["versions"] = {**found["versions"], **{name: version(name) for name in PACKAGES}}
    precision = resolve_precision(settings.engine, settings.precision)
    return {**found, "engine": settings.engine, "precision": precision, "threads": settings.thread_count()}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    parser.add_argument("--backbone", choices=tuple(BACKBONES), help="only this one")
    parser.add_argument("--rounds", type=int, help=f"of each backbone; default {ROUNDS}")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()  # transformers reports the adapters loaded before as missing
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:26}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    figures: dict[str, Report] = {}
    known: Report = {}
    started = perf_counter()
    with Progress(*columns, console=console) as bar:
        for name in [asked.backbone] if asked.backbone else BACKBONES:
            backbone = BACKBONES[name](lambda text: console.print(text, style="dim"))
            settings = Settings(backbone.bundle, backbone.registry)
            torch.set_num_threads(settings.thread_count())
            known = known or facts(settings)  # before there is any load of our own
            bench = Bench(backbone, settings, asked.rounds or ROUNDS[name], Steps(bar))
            figures[name] = bench.measure()
    bars = held_against_bars(figures)
    report = {"machine": known, **figures, "bars": bars, "seconds": perf_counter() - started, "notes": NOTES}
    asked.json.write_text(json.dumps(report, indent=2, default=str) + "\n")
    console.print(table(bars))


if __name__ == "__main__":
    main()

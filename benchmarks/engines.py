"""Forward passes at full size, by engine: how fast, and how far from torch in fp32?

python benchmarks/engines.py --json FILE [--size amused256] [--rounds 7] [--engines NAME:PRECISION ...]

sd15       Stable Diffusion 1.5's UNet (860 M parameters), 256 x 256 pixels
amused256  aMUSEd-256's transformer (604 M parameters), 256 x 256 pixels

Two lanes each, random weights in fp16, no adapter. What torch is timed on is diffusers' module with the fastest of its
kinds of attention; the engines are timed on the bundle's graph as it's served, with its adapters' inputs. Rows come
from the host's memory and predictions go back there. Each runs in a process of its own on all cores, one at a time, in
an order that moves on from round to round. Four engines and more don't fit into memory side by side, so one stays, and
the others take turns beside it: every quotient is of passes in the same rounds.

--engines names others: the first stays, and torch:f32 or torch-cuda:f32 has to be among them, from which errors are
told. On a machine with a GPU, e.g. tensorrt:bf16 onnxruntime-tensorrt:bf16 onnxruntime-cuda:f32 torch-cuda:f32
torch-cuda:bf16, the latter two with --attention sdpa or xformers. What can't be had is an error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing as mp
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from math import log10
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are scripts, none is installed

from benchmarks.common import bars, masked_backbones
from benchmarks.common.backbones import KEPT, STUDIO, public
from benchmarks.common.bars import Bar, held_against_bars
from benchmarks.common.bench import interval, machine, warning, write
from benchmarks.common.feeds import rows_of
from benchmarks.common.reference import Reference, add_attention
from benchmarks.parts.engines.contest import USUAL, Contest, Kind

from impasto_export import atomic
from impasto_export.architecture import canonical_json
from impasto_export.errors import UnknownArchitecture
from impasto_export.link import link
from impasto_export.tracing import graphs
from impasto_server.adapters.adapted import AdaptedEngine
from impasto_server.adapters.seat import Seat
from impasto_server.engines import gpu
from impasto_server.engines.runtime import Runtime
from impasto_server.errors import SetupError
from impasto_server.families import open_bundle
from impasto_server.families.diffusion.manifest import DiffusionManifest
from impasto_server.families.diffusion.unet import unsteered
from impasto_server.families.masked.manifest import MaskedManifest
from impasto_server.families.masked.masked import AESTHETIC_SCORE
from impasto_server.ops.calibrate import filled_bank
from impasto_server.settings import Settings

Array = NDArray[Any]
Feeds = Mapping[str, Array]
Report = dict[str, Any]
Say = Callable[[str], object]

LANES, ROUNDS = 2, 7
WARM_UP = 2
BANK_BYTES = 128 << 20
PACKAGES = ("torch", "diffusers", "transformers")
# Stable Diffusion 1.5's own configs; the UNet's size is that of 256 pixels, which is timed.
SD15 = {part: public("sd1")[part] for part in ("unet", "text_encoder", "vae")}
SD15["unet"]["sample_size"] = 32
BARS = (
    Bar("openvino_bf16_vs_onnxruntime_f32", ("amused256",), at_least=3.0),
    Bar("openvino_bf16_vs_torch_bf16", ("amused256",), at_least=1.3),
)
NOTES = {
    "ms": "median of a forward pass in milliseconds, with where it lies in 95 % of redrawings of the rounds.",
    "relative_error": "root mean square of the difference to torch in fp32 (the first of those named), relative to its "
    "output's; db: the same as a signal to noise ratio.",
    "peak_gb": "the most of the host's memory that the engine's process ever had, torch itself and what it reads "
    "weights with included; mapped files count.",
    "openvino_bf16_vs_...": "median over rounds of the other's pass ÷ OpenVINO's in bf16 of the same round; or that of "
    "whichever engine stays.",
}


# what is measured


@dataclass(frozen=True)
class Size:
    """A checkpoint, its bundle, and the component that runs at every step."""

    name: str
    component: str
    checkpoint: Path
    bundle: Path

    def feeds(self) -> Feeds:
        """LANES random rows of the bundle's picture under no adapter, as the step loop makes them."""
        manifest = open_bundle(self.bundle).manifest
        rows = rows_of(manifest, LANES)
        if isinstance(manifest, DiffusionManifest):
            return {**rows, **unsteered(manifest.graphs["unet"], LANES)}
        assert isinstance(manifest, MaskedManifest)
        codes = np.random.default_rng(0).integers(manifest.tokens.codes, size=rows["input_ids"].shape)
        conditions = np.array([manifest.image.width, manifest.image.height, 0, 0, AESTHETIC_SCORE], np.float32)
        return {**rows, "input_ids": codes, "micro_conds": np.tile(conditions, (LANES, 1))}


def sd15(say: Say) -> Size:
    facts = hashlib.sha256(canonical_json(SD15)).hexdigest()
    kept = KEPT / f"sd15-checkpoint-{facts[:12]}"
    if not kept.is_dir():
        with atomic.folder(kept) as draft:
            _random_sd15(draft, say)
    return _linked("sd15", "unet", kept, say)


def amused256(say: Say) -> Size:
    return _linked("amused256", "transformer", masked_backbones.random_checkpoint(say), say)


SIZES: dict[str, Callable[[Say], Size]] = {"sd15": sd15, "amused256": amused256}


def _random_sd15(folder: Path, say: Say) -> None:
    """Weights of torch's own initialisation, saved as fp16; schedule and vocabulary are the studio's."""
    import torch

    for seed, (part, config) in enumerate(SD15.items()):
        say(f"sd15: random {part}")
        torch.manual_seed(seed)
        graphs.build(part, config).half().save_pretrained(folder / part)
    for part in ("scheduler", "tokenizer"):
        shutil.copytree(STUDIO / part, folder / part)
    shutil.copy(STUDIO / "model_index.json", folder)
    path = folder / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 77}))


def _linked(name: str, component: str, checkpoint: Path, say: Say) -> Size:
    """Its bundle, by the graphs that are shipped; else by those that were exported once."""
    say(f"{name}: bundle")
    out = KEPT / f"engines-{name}"
    shutil.rmtree(out, ignore_errors=True)
    try:
        linked = link(checkpoint, out)
    except UnknownArchitecture:
        linked = link(checkpoint, out, [_exported(name, checkpoint, say)])
    return Size(name, component, checkpoint, linked.folder)


def _exported(name: str, checkpoint: Path, say: Say) -> Path:
    skeleton = KEPT / f"engines-{name}-graphs"
    if not skeleton.is_dir():
        with atomic.folder(skeleton) as draft:
            graphs.export(checkpoint, draft / name, name, lambda text: say(f"{name}: {text}"))
    return skeleton


# how each runs


def torch_pass(size: Size, precision: str, reference: Reference, feeds: Feeds) -> Callable[[], Array]:
    """diffusers' module, its weights and its arithmetic in the precision."""
    import torch
    from diffusers import UNet2DConditionModel, UVit2DModel

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
    kind: Any = {"unet": UNet2DConditionModel, "transformer": UVit2DModel}[size.component]
    model = reference.place(kind.from_pretrained(size.checkpoint / size.component, torch_dtype=dtype).eval())
    order = {
        "unet": ("sample", "timestep", "encoder_hidden_states"),
        "transformer": ("input_ids", "encoder_hidden_states", "pooled_text_emb", "micro_conds"),
    }[size.component]
    tensors = [torch.from_numpy(feeds[name]) for name in order]
    args = [one.to(dtype) if one.is_floating_point() else one for one in tensors]

    def run() -> Array:
        with torch.inference_mode():
            output = model(*(one.to(reference.device) for one in args))
        found: Array = (output.sample if size.component == "unet" else output).float().cpu().numpy()
        return found

    reference.pick_attention(model, lambda: [reference.ms(run) for _ in range(3)])
    return run


def engine_pass(size: Size, kind: Kind, feeds: Feeds) -> Callable[[], Array]:
    """As the step loop runs it."""
    bundle = open_bundle(size.bundle)
    settings = Settings(size.bundle, size.bundle, kind.engine, kind.precision, bank_bytes=BANK_BYTES)
    runtime = Runtime.of(settings)
    bank = filled_bank(bundle.manifest, settings, runtime, 1)
    compiled = AdaptedEngine(bundle, bundle.manifest.backbone, runtime, bank)
    seats = [Seat()] * LANES
    compiled.prepare(feeds, seats)
    return lambda: compiled.run(feeds, seats)[0]


def work(size: Size, kind: Kind, contest: Contest, feeds: Feeds, told: Connection) -> None:
    """A worker's whole life: load, warm up, say what comes out; then a pass for every word it hears."""
    if kind.is_torch:
        run = torch_pass(size, kind.precision, kind.reference(contest.attention), feeds)
    else:
        run = engine_pass(size, kind, feeds)
    for _ in range(WARM_UP):
        output = run()
    told.send((output, _peak_gb()))
    while told.recv():
        started = perf_counter()
        run()  # what comes out is the host's, so a GPU has done all of it
        told.send(1000 * (perf_counter() - started))


def _peak_gb() -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return round(int(line.split()[1]) / 1e6, 2)


@dataclass(frozen=True)
class Worker:
    """An engine in its own process, idle until it's asked."""

    output: Array
    peak_gb: float
    load_s: float
    told: Connection

    def pass_ms(self) -> float:
        self.told.send(True)
        return float(self.told.recv())


@contextmanager
def worker(size: Size, kind: Kind, contest: Contest, feeds: Feeds, say: Say) -> Iterator[Worker]:
    """Loaded and warm; gone afterwards. Raises EOFError when it dies."""
    say(f"{size.name}: loading {kind}")
    started = perf_counter()
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(size, kind, contest, feeds, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        output, peak_gb = ours.recv()
        yield Worker(output, peak_gb, perf_counter() - started, ours)
    finally:
        process.kill()
        process.join()


# the measurement


@dataclass(frozen=True)
class Figures:
    """What is known of every engine, and of the rounds of each that took a turn."""

    contest: Contest
    workers: dict[Kind, Worker] = field(default_factory=dict)
    pairs: list[dict[Kind, list[float]]] = field(default_factory=list)

    def report(self) -> Report:
        stays = self.contest.stays
        quotients = {
            f"{stays}_vs_{kind}".replace(" ", "_"): [a / b for a, b in zip(pair[kind], pair[stays], strict=True)]
            for kind, pair in zip(self.contest.others, self.pairs, strict=True)
        }
        return {
            "engines": {str(kind): self._engine(kind) for kind in self.contest.kinds},
            **{key: median(each) for key, each in quotients.items()},
            **{f"{key}_interval": interval(median, each) for key, each in quotients.items()},
            "samples_ms": [{str(kind): spent for kind, spent in pair.items()} for pair in self.pairs],
        }

    def _engine(self, kind: Kind) -> Report:
        one = self.workers[kind]
        spent = [ms for pair in self.pairs for ms in pair.get(kind, ())]
        error = relative_error(one.output, self.workers[self.contest.exact].output)
        return {
            "ms": median(spent),
            "ms_interval": interval(median, spent),
            "relative_error": error,
            "db": -20 * log10(error) if error else None,
            "peak_gb": one.peak_gb,
            "load_s": round(one.load_s, 1),
        }


def measure(size: Size, contest: Contest, rounds: int, say: Say) -> Report:
    """All figures of a size, with the samples they come from."""
    feeds, figures, stays = size.feeds(), Figures(contest), contest.stays
    with worker(size, stays, contest, feeds, say) as staying:
        for kind in contest.others:
            with worker(size, kind, contest, feeds, say) as other:
                say(f"{size.name}: {rounds} rounds of {stays} beside {kind}")
                pair = {stays: staying, kind: other}
                figures.pairs.append(time_rounds(pair, rounds))
                figures.workers.update(pair)
    return figures.report()


def time_rounds(loaded: Mapping[Kind, Worker], rounds: int) -> dict[Kind, list[float]]:
    """Milliseconds of each, one of each a round, in an order that moves on by one."""
    kinds = list(loaded)
    found: dict[Kind, list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds):
        first = number % len(kinds)
        for kind in (*kinds[first:], *kinds[:first]):
            found[kind].append(loaded[kind].pass_ms())
    return found


def relative_error(found: Array, wanted: Array) -> float:
    """Root mean square of the difference, relative to that of what is wanted."""
    difference = found.astype(np.float64) - wanted
    return float(np.sqrt(np.mean(difference**2) / np.mean(wanted.astype(np.float64) ** 2)))


# the report


def table(figures: Mapping[str, Report]) -> Table:
    shown = Table("size", "engine", "ms", "95 %", "relative error", "dB", "peak GB", "loaded in s")
    for name, one in figures.items():
        for kind, found in one["engines"].items():
            low, high = found["ms_interval"]
            db = "" if found["db"] is None else f"{found['db']:.1f}"
            error, ms = f"{found['relative_error']:.1e}", f"{found['ms']:.0f}"
            peak, load = f"{found['peak_gb']}", f"{found['load_s']}"
            shown.add_row(name, kind, ms, f"{low:.0f} to {high:.0f}", error, db, peak, load)
    return shown


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    found.add_argument("--size", choices=tuple(SIZES), help="only this one")
    found.add_argument("--rounds", type=int, default=ROUNDS, help=f"of each pair; default {ROUNDS}")
    usual = ", ".join(map(str, USUAL))
    found.add_argument(
        "--engines", nargs="+", type=Kind.of, default=USUAL, metavar="NAME:PRECISION", help=f"default: {usual}"
    )
    add_attention(found)
    return found


def facts(contest: Contest) -> Report:
    known = dict(machine())
    known["versions"] = {**known["versions"], **{name: version(name) for name in PACKAGES}}
    return {**known, **({"gpu": str(gpu.find(0))} if any(kind.on_gpu for kind in contest.kinds) else {})}


def main() -> None:
    asked, console = parser().parse_args(), Console(stderr=True)
    try:
        contest = Contest.of(asked.engines, asked.attention)
    except SetupError as error:
        parser().error(str(error))
    known = facts(contest)  # before there is any load of our own
    if warning(known):
        console.print(f"[yellow]{warning(known)}[/]")
    started, figures = perf_counter(), {}
    for name in [asked.size.pixels] if asked.size.pixels else SIZES:
        say: Say = partial(console.log, style="dim")
        figures[name] = measure(SIZES[name](say), contest, asked.rounds, say)
    held = held_against_bars(figures, BARS if contest.kinds == USUAL else ())
    seconds = perf_counter() - started
    write({"machine": known, "lanes": LANES, **figures, "bars": held, "seconds": seconds, "notes": NOTES}, asked.json)
    console.print(table(figures))
    if held:
        console.print(bars.table(held))


if __name__ == "__main__":
    main()

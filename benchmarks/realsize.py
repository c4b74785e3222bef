"""Do checkpoints of true size link in seconds, and compute what diffusers computes?

python benchmarks/realsize.py --json FILE [--only NAME ...] [--parts export|parity] [--work DIR]

For each backbone (parts/realsize/backbones.py), one child process after the other: its skeleton is exported from the
public configs, without weights, and held against the shipped one byte by byte; a random checkpoint of its size is
written and linked by `impasto link`; a random LoRA is imported; every graph runs once in onnxruntime, and beside it the
module of diffusers or transformers on the same checkpoint. The graphs' pictures have 256 pixels a side.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are scripts, none is installed

from benchmarks.common.bench import machine, warning
from benchmarks.parts.realsize import backbones as backbones
from benchmarks.parts.realsize import children as children
from benchmarks.parts.realsize.backbones import (
    BACKBONES,
    CONTROLNET,
    ITEM_BYTES,
    ROOT,
    STAND_INS,
    Backbone,
)
from benchmarks.parts.realsize.feeds import ALPHA, write_lora
from benchmarks.parts.realsize.figures import NOTES, Report, compared, held_against_bars, missed, table, worst
from benchmarks.parts.realsize.process import (
    GB,
    THREADS,
    Command,
    Ran,
    Unmeasured,
    check_disk,
    check_memory,
    forget,
    impasto,
    memory,
    own_peak,
    run,
)

from impasto_export.checkpoints import fitting
from impasto_export.errors import ExportError

WORK = ROOT / ".impasto" / "realsize"
PACKAGES = ("diffusers", "onnxruntime", "torch", "transformers")
# What is measured of a backbone, either by itself, and how many stages that has.
PARTS = {"export": 1, "parity": 3 + len(children.SIDES)}
WIDENED = 2  # float32's bytes to fp16's
SPARE = 2 * GB  # of memory, beside a component's weights in float32


@dataclass(frozen=True)
class Bench:
    """One backbone in a folder of its own. `done` hears of every stage that has ended."""

    backbone: Backbone
    folder: Path
    done: Callable[[str], object]

    def measure(self, parts: Sequence[str]) -> Report:
        """Figures of these PARTS; what could not be had is in "failed", by the stage that said why."""
        found: Report = {}
        failed: dict[str, str] = {}
        stages = {"export": (self._export,), "parity": (self._checkpoint, self._link, self._parity)}
        for part in parts:
            for stage in stages[part]:
                name = stage.__name__.removeprefix("_")
                try:
                    found |= stage()
                except (Unmeasured, ExportError, OSError) as error:
                    failed[name] = str(error)
                    break
                self.done(name)
        return {**found, "failed": failed}

    def _export(self) -> Report:
        backbone, out = self.backbone, self.folder / "skeleton"
        kind = CONTROLNET if backbone.base else "graphs"
        made = run("export", impasto("export", kind, backbone.configs, "--out", out, "--name", backbone.name))
        apart = different_files(out, backbone.skeleton)
        size = sum(path.stat().st_size for path in out.iterdir())
        return {"export": {**taken(made), "skeleton_mb": size / 1e6, "different_files": len(apart), "different": apart}}

    def _checkpoint(self) -> Report:
        folders = {self.backbone: self.folder / children.CHECKPOINT}
        if self.backbone.base:
            folders = {self.backbone.base: folders[self.backbone], self.backbone: self.folder / children.CONTROL}
        size = ITEM_BYTES * sum(sum(one.sizes().values()) for one in folders)
        check_disk(self.folder, size + int(GB))
        for one, folder in folders.items():
            # Not in this process: its memory would count as every later child's.
            run("checkpoint", [sys.executable, backbones.__file__, one.name, folder])
        own = sum(self.backbone.sizes().values())
        return {"checkpoint": {"parameters": own, "gb": ITEM_BYTES * own / GB}}

    def _link(self) -> Report:
        checkpoint, cold = self.folder / children.CHECKPOINT, self.folder / "cold"
        control: Command = ["--controlnet", self.folder / children.CONTROL, "--control", "edges,edges,edges"]
        command = impasto("link", checkpoint, *(control if self.backbone.base else []), "--out")
        forget(self.folder)
        first = run("link", [*command, cold])
        shutil.rmtree(cold)
        made = run("link", [*command, self.folder / children.BUNDLE])
        sizes = [path.stat() for path in (self.folder / children.BUNDLE).iterdir()]
        beyond = sum(found.st_size for found in sizes if found.st_nlink == 1)
        whole = sum(found.st_size for found in sizes)
        facts = {"bundle_gb": whole / GB, "beyond_links_mb": beyond / 1e6}
        return {"link": {**taken(made), **facts}, "link_cold": taken(first)}

    def _parity(self) -> Report:
        self._import_lora()
        largest = max(self.backbone.sizes().values())
        sides = {}
        for side in children.SIDES:
            check_memory(side, int(WIDENED * ITEM_BYTES * largest + SPARE))
            script: Command = [sys.executable, children.__file__, side, self.backbone.name, self.folder]
            sides[side] = taken(run(side, script))
            self.done(side)
        reference, ours = (np.load(self.folder / f"{side}.npz") for side in children.SIDES)
        with reference, ours:
            graphs = compared(reference, ours)
        return {"graphs": graphs, **worst(graphs), **sides}

    def _import_lora(self) -> None:
        found, path = self.backbone.architecture(), self.folder / children.LORA
        write_lora(found, path)
        if any(graph.sites for graph in found.graphs.values()):
            where: Command = ["--bundle", self.folder / children.BUNDLE, "--registry", self.folder / children.REGISTRY]
            said = ["--name", children.ADAPTER, "--alpha", f"{ALPHA:g}"]
            run("adapters import", impasto("adapters", "import", path, *said, *where))


def taken(ran: Ran) -> Report:
    return {"seconds": ran.seconds, "peak_gb": ran.peak_bytes / GB}


def different_files(ours: Path, shipped: Path) -> list[str]:
    """Names of files that only one folder has, or that differ; the layout of single files is kept, not exported."""
    names = {path.name for folder in (ours, shipped) for path in folder.iterdir()} - {fitting.NAME}
    pairs = {name: (ours / name, shipped / name) for name in sorted(names)}
    return [
        name
        for name, (one, other) in pairs.items()
        if not (one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes())
    ]


def facts() -> Report:
    known = dict(machine())
    known["versions"] = {**known["versions"], **{name: version(name) for name in PACKAGES}}
    return {**known, "threads": THREADS, "memory_gb": memory()["MemTotal"] / GB, "floor_gb": own_peak() / GB}


def report(known: Report, figures: Mapping[str, Report], seconds: float) -> Report:
    return {"machine": known, **figures, "bars": held_against_bars(figures), "seconds": seconds, "notes": NOTES}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
    parser.add_argument("--only", nargs="+", choices=(*BACKBONES, *STAND_INS), default=tuple(BACKBONES), metavar="NAME")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=tuple(PARTS), help="default: both")
    parser.add_argument("--work", type=Path, default=WORK, metavar="DIR", help=f"for checkpoints; default {WORK}")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    console, started, known = Console(stderr=True), perf_counter(), facts()
    console.print(warning(known))
    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    figures: dict[str, Report] = {}
    with Progress(*columns, console=console) as bar:
        for name in asked.only:
            backbone = {**BACKBONES, **STAND_INS}[name]
            with workspace(asked.work / name) as folder:
                figures[name] = Bench(backbone, folder, progress(bar, name, asked.parts)).measure(asked.parts)
            # After every backbone: the next may take the machine with it.
            found = report(known, figures, perf_counter() - started)
            asked.json.write_text(json.dumps(found, indent=2) + "\n")
    console.print(table(figures), *missed(figures), sep="\n")


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """An empty folder, gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def progress(bar: Progress, name: str, parts: Sequence[str]) -> Callable[[str], object]:
    """What counts stages, and names the last one that has ended."""
    task = bar.add_task(name, total=sum(PARTS[part] for part in parts))

    def done(stage: str) -> None:
        bar.update(task, advance=1, description=f"{name}: {stage}")
        if not bar.console.is_terminal:
            bar.console.log(f"{name}: {stage}")

    return done


if __name__ == "__main__":
    main()

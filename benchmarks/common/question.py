"""A question about how a crowd is served beside a peer in torch: its command line, and the report that answers it."""

from __future__ import annotations

import argparse
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import get_args

import diffusers
import torch
import transformers
from benchmarks.common.backbones import Backbone
from benchmarks.common.bars import Bar, Report, held_against_bars, table
from benchmarks.common.bench import machine, warning
from benchmarks.common.reference import Reference, add_attention
from benchmarks.common.steps import Steps
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from impasto_server.engines.runtime import Runtime
from impasto_server.errors import SetupError
from impasto_server.settings import ON_GPU, EngineName, Settings

Say = Callable[[str], object]

PACKAGES = ("diffusers", "peft", "torch", "transformers")


@dataclass(frozen=True)
class Bench(ABC):
    """One backbone under measurement, `name` among the question's: how it is served, and where its peer computes."""

    name: str
    backbone: Backbone
    settings: Settings
    reference: Reference
    rounds: int
    steps: Steps

    @abstractmethod
    def measure(self) -> Report:
        """All of its figures, with the samples they come from."""

    def begin(self, what: str, total: int) -> Callable[[], object]:
        return self.steps.begin(f"{self.name}: {what}", total)


@dataclass(frozen=True)
class Question:
    """Asked of each of `backbones`, for so many `rounds` unless told otherwise; `notes` say what its figures are."""

    doc: str
    backbones: Mapping[str, Callable[[Say], Backbone]]
    rounds: Mapping[str, int]
    bars: tuple[Bar, ...]
    notes: Mapping[str, str]
    bench: Callable[[str, Backbone, Settings, Reference, int, Steps], Bench]

    def answer(self) -> None:
        """Measure what the command line asks for, write it down, and show what was wished of it."""
        parser = self._parser()
        asked = parser.parse_args()
        reference = Reference("cuda" if asked.engine in ON_GPU else "cpu", tuple(asked.attention))
        try:
            reference.check()
            Runtime.of(Settings(Path(), Path(), asked.engine))
        except SetupError as error:
            parser.error(str(error))
        _quieten()
        console = Console(stderr=True)
        columns = (TextColumn("{task.description:26}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        known, figures, started = facts(asked.engine), dict[str, Report](), perf_counter()
        console.print(warning(known))
        torch.set_num_threads(known["threads"])
        with Progress(*columns, console=console) as bar:
            for name in [asked.backbone] if asked.backbone else self.backbones:
                backbone = self.backbones[name](lambda text: console.print(text, style="dim"))
                settings = Settings(backbone.bundle, backbone.registry, asked.engine)
                rounds = asked.rounds or self.rounds[name]
                figures[name] = self.bench(name, backbone, settings, reference, rounds, Steps(bar)).measure()
        bars = held_against_bars(figures, self.bars)
        report = {"machine": known, **figures, "bars": bars, "seconds": perf_counter() - started, "notes": self.notes}
        asked.json.write_text(json.dumps(report, indent=2, default=str) + "\n")
        console.print(table(bars))

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(description=self.doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the figures go")
        parser.add_argument("--backbone", choices=tuple(self.backbones), help="only this one")
        parser.add_argument("--rounds", type=int, help=f"of each backbone; default {dict(self.rounds)}")
        parser.add_argument(
            "--engine", choices=get_args(EngineName), default="openvino", help="the peer computes where it does"
        )
        add_attention(parser)
        return parser


def facts(engine: EngineName) -> Report:
    """Of the machine before there is any load of our own, and of what the engine is there."""
    found = dict(machine())
    found["versions"] = {**found["versions"], **{name: version(name) for name in PACKAGES}}
    runtime = Runtime.of(Settings(Path(), Path(), engine))
    if runtime.gpu is not None:
        found["gpu"] = str(runtime.gpu)
    return {**found, "engine": engine, "precision": runtime.precision, "threads": runtime.threads}


def _quieten() -> None:
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()  # transformers reports the adapters loaded before as missing

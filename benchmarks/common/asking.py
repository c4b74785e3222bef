"""What benchmarks that look at pictures share: wishes put to a server, and figures of what the judge reads in them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.common import sheets
from benchmarks.common.bench import CONFIDENT, half_width, machine, warning, write
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from studio.painter import Scene
from studio.reading.judge import Judge

from impasto_client import Client, Generation, Options

Pixels = NDArray[np.uint8]
Samples = dict[str, NDArray[Any]]  # by figure, of each picture: bool where it is a share, else float
Report = dict[str, Any]

IN_FLIGHT = 16
JUDGED = ("style_acc", "object_acc", "colour_acc")


@dataclass(frozen=True)
class Wish:
    """A picture to be painted."""

    prompt: str
    options: Options


@dataclass(frozen=True)
class Asker:
    """Puts wishes to the server, several at a time."""

    client: Client
    bar: Progress

    def ask(self, what: str, wishes: Sequence[Wish]) -> Pixels:
        """One picture for each, in order, uint8 [N, H, W, 3]. Raises the first ImpastoError."""
        return pixels(self.made(what, wishes))

    def made(self, what: str, wishes: Sequence[Wish]) -> list[Generation]:
        """The same as the server answered."""
        task = self.bar.add_task(what, total=len(wishes))

        def paint(wish: Wish) -> Generation:
            made = self.client.generate(wish.prompt, **wish.options)
            self.bar.advance(task)
            return made

        pool = ThreadPoolExecutor(IN_FLIGHT)
        try:
            return list(pool.map(paint, wishes))
        finally:
            pool.shutdown(cancel_futures=True)


def pixels(made: Sequence[Generation]) -> Pixels:
    """uint8 [N, H, W, 3]."""
    return np.stack([np.asarray(generation.image.convert("RGB")) for generation in made])


def readings(judge: Judge, pictures: Pixels, style: str, scenes: Sequence[Scene]) -> Samples:
    """In which pictures the judge reads the style, and the scenes' objects and colours."""
    read = list(zip(judge.read(pictures), scenes, strict=True))
    return {
        "style_acc": np.array([one.style == style for one, _ in read]),
        "object_acc": np.array([one.object == scene.object for one, scene in read]),
        "colour_acc": np.array([one.colour == scene.colour for one, scene in read]),
    }


def png(picture: Pixels) -> bytes:
    file = BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def picture_of(path: Path) -> Pixels:
    return np.asarray(Image.open(path).convert("RGB"))


def figures(samples: Samples) -> Report:
    """Means, and half of their 95 % intervals: Wilson's of a share, else the normal one."""
    means = {name: float(values.mean()) for name, values in samples.items()}
    widths = {
        name: half_width(means[name], len(values))
        if values.dtype == np.bool_
        else CONFIDENT * float(values.std()) / len(values) ** 0.5
        for name, values in samples.items()
    }
    return {**means, "half_widths": widths, "n": min(len(values) for values in samples.values())}


def with_all(rows: Mapping[str, Mapping[str, Samples]]) -> Report:
    """Figures by style and kind; under `all`, of kinds that every style has, those of all pictures together."""
    found = {style: {kind: figures(samples) for kind, samples in row.items()} for style, row in rows.items()}
    first, *others = rows.values()
    kinds = [kind for kind in first if all(kind in row for row in others)]
    return found | {"all": {kind: figures(joined([row[kind] for row in rows.values()])) for kind in kinds}}


def joined(many: Sequence[Samples]) -> Samples:
    return {name: np.concatenate([samples[name] for samples in many]) for name in many[0]}


def cell(found: Report, name: str) -> str:
    return f"{100 * found[name]:.0f} ± {100 * found['half_widths'][name]:.0f} %" if name in found else ""


def run(
    name: str,
    asked: argparse.Namespace,
    measure: Callable[[argparse.Namespace, Progress], tuple[Report, dict[str, Image.Image]]],
    tables: Callable[[Report], Iterable[Table]],
) -> None:
    """What such a benchmark does: figures to `asked.json`, sheets to `asked.sheets` as PNGs, tables to a person."""
    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    facts = machine()
    console.print(warning(facts))
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        report, drawn = measure(asked, bar)
    write({**report, "machine": facts}, asked.json)
    for title, sheet in drawn.items() if asked.sheets else ():
        sheets.save(sheet, asked.sheets / f"{name}-{title}.png")
    for table in tables(report):
        console.print(table)

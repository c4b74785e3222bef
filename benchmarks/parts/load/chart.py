"""What load.py found, as a picture: latency, requests served well, and goodput against the offered load."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from benchmarks.common.canvas import GRID, INK, Box, Canvas, Colour, Points, round_marks
from benchmarks.parts.load.traffic import GOOD_SHARE, GOOD_SLOWDOWN
from PIL import ImageFont

PANEL, HEIGHT, HEAD = 430, 400, 84
SIDES: Mapping[str, tuple[str, Colour]] = {
    "ours": ("in flight: join and leave at any step", (30, 98, 196)),
    "peer": ("whole batches, same engine", (222, 110, 34)),
    "peer_held": ("whole batches, answers held", (168, 170, 178)),
}


@dataclass(frozen=True)
class Line:
    points: Points
    colour: Colour
    width: float = 2.0
    dash: float = 0.0


@dataclass(frozen=True)
class Axes:
    """A panel: its title, what its axes are marked with, from end to end, and whether they are logarithmic."""

    title: str
    x_marks: Sequence[float]
    y_marks: Sequence[float]
    label: Callable[[float], str]
    log_x: bool = False
    log_y: bool = False

    def place(self, box: Box, point: tuple[float, float]) -> tuple[float, float]:
        left, top, right, bottom = box
        x, y = _share(point[0], self.x_marks, self.log_x), _share(point[1], self.y_marks, self.log_y)
        return left + (right - left) * x, bottom - (bottom - top) * y


def _share(value: float, marks: Sequence[float], log: bool) -> float:
    """Where between the first mark and the last, 0 to 1."""
    low, high, at = (math.log(one) if log else one for one in (marks[0], marks[-1], value))
    return (at - low) / (high - low)


def draw(report: Mapping[str, Any], path: Path) -> None:
    """`report` is what load.py writes as JSON."""
    sides = report["sides"]
    canvas = Canvas(3 * PANEL, HEIGHT)
    canvas.text((18, 30), "How many requests a second are served well?", 20)
    right = 3 * PANEL - 18
    machine = report["machine"]
    what = (
        f"{report['adapters']} adapters, 4 to 50 steps, {report['calibration']['precision']}, {machine['cores']} cores"
    )
    canvas.text((right, 30), what, 13, "rs")
    _legend(canvas, list(sides))
    _latencies(canvas, sides)
    _shares(canvas, sides)
    _goodput(canvas, sides, report["capacity_rps"]["ours"])
    canvas.save(path)


def log_marks(values: Sequence[float]) -> list[float]:
    """1, 2 or 5 times powers of ten, from the last below all values to the first above them."""
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    marks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    first = max(i for i, mark in enumerate(marks) if mark <= min(values))
    last = min(i for i, mark in enumerate(marks) if mark >= max(values))
    return marks[first : last + 1]


def _legend(canvas: Canvas, sides: Sequence[str]) -> None:
    x = 18.0
    for side in sides:
        name, colour = SIDES[side]
        canvas.line([(x, 56), (x + 26, 56)], colour, 3)
        canvas.text((x + 34, 61), name, 14)
        x += 60 + ImageFont.load_default(14).getlength(name)


def _curve(sides: Mapping[str, Any], side: str, *keys: str) -> Line:
    """What stands under `keys` at each load."""
    return Line([(one["offered_rps"], reduce(getitem, keys, one)) for one in sides[side]], SIDES[side][1])


def _latencies(canvas: Canvas, sides: Mapping[str, Any]) -> None:
    widths = {"p50": 1.0, "p95": 1.8, "p99": 2.8}
    lines = [
        replace(_curve(sides, side, "latency_s", p), width=width)
        for side in ("peer", "ours")
        for p, width in widths.items()
    ]
    x_marks, y_marks = (log_marks([point[axis] for line in lines for point in line.points]) for axis in (0, 1))
    title = "Latency, s: P50 (thin), P95, P99 (thick)"
    _panel(canvas, 0, Axes(title, x_marks, y_marks, "{:g}".format, log_x=True, log_y=True), lines)


def _shares(canvas: Canvas, sides: Mapping[str, Any]) -> None:
    lines = [_curve(sides, side, "good_share") for side in reversed(list(sides))]
    x_marks = log_marks([x for x, _ in lines[0].points])
    bar = Line([(x_marks[0], GOOD_SHARE), (x_marks[-1], GOOD_SHARE)], INK, 1.2, dash=5)
    title = f"Requests within {GOOD_SLOWDOWN:g} x their solo latency"
    axes = Axes(title, x_marks, [0, 0.2, 0.4, 0.6, 0.8, GOOD_SHARE, 1.0], "{:.0%}".format, log_x=True)
    _panel(canvas, PANEL, axes, [bar, *lines])


def _goodput(canvas: Canvas, sides: Mapping[str, Any], capacity: float) -> None:
    lines = [_curve(sides, side, "goodput_rps") for side in reversed(list(sides))]
    x_marks, y_marks = (round_marks(max(point[axis] for line in lines for point in line.points)) for axis in (0, 1))
    most = min(x_marks[-1], y_marks[-1])
    everyone = Line([(0, 0), (most, most)], INK, 1.2, dash=5)
    title = f"Goodput, those requests / s (all: dashed; capacity {capacity:.1f})"
    _panel(canvas, 2 * PANEL, Axes(title, x_marks, y_marks, "{:g}".format), [everyone, *lines])


def _panel(canvas: Canvas, left: float, axes: Axes, lines: Sequence[Line]) -> None:
    box = (left + 52, HEAD + 28, left + PANEL - 18, HEIGHT - 46)
    canvas.text((box[0], HEAD + 14), axes.title, 15)
    for mark in axes.y_marks:
        _, y = axes.place(box, (axes.x_marks[0], mark))
        canvas.line([(box[0], y), (box[2], y)], GRID)
        canvas.text((box[0] - 7, y), axes.label(mark), 12, "rm")
    for mark in axes.x_marks:
        x, _ = axes.place(box, (mark, axes.y_marks[0]))
        canvas.text((x, box[3] + 9), f"{mark:g}", 12, "mt")
    canvas.text(((box[0] + box[2]) / 2, HEIGHT - 10), "offered, requests / s", 12, "ms")
    for line in lines:
        spots = [axes.place(box, point) for point in line.points]
        canvas.line(spots, line.colour, line.width, line.dash)
        for spot in spots if not line.dash else []:
            canvas.dot(spot, line.colour, line.width * 1.6)

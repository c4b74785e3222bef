"""What load.py found, as a picture: latency, requests served well, and goodput against the offered load."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from benchmarks.parts.load.traffic import GOOD_SHARE, GOOD_SLOWDOWN
from PIL import Image, ImageDraw, ImageFont

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

FINE = 3  # drawn so many times larger, then scaled down: smooth lines
PANEL, HEIGHT, HEAD = 430, 400, 84
INK, GRID, PAPER = (38, 42, 51), (228, 230, 235), (255, 255, 255)
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


class Canvas:
    """A drawing whose units are the finished picture's pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width * FINE, height * FINE), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def text(self, at: tuple[float, float], words: str, size: int = 13, anchor: str = "ls", fill: Colour = INK) -> None:
        font = ImageFont.load_default(size * FINE)
        self._draw.text((at[0] * FINE, at[1] * FINE), words, fill=fill, font=font, anchor=anchor)

    def line(self, points: Points, colour: Colour, width: float = 1.0, dash: float = 0.0) -> None:
        fine = [(x * FINE, y * FINE) for x, y in (_dashes(points, dash) if dash else points)]
        step = 2 if dash else 1
        for one in zip(fine[::step], fine[1::step], strict=False):
            self._draw.line(one, fill=colour, width=round(width * FINE))

    def dot(self, at: tuple[float, float], colour: Colour, radius: float = 3.2) -> None:
        x, y, r = at[0] * FINE, at[1] * FINE, radius * FINE
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def panel(self, left: float, axes: Axes, lines: Sequence[Line]) -> None:
        box = (left + 52, HEAD + 28, left + PANEL - 18, HEIGHT - 46)
        self.text((box[0], HEAD + 14), axes.title, 15)
        for mark in axes.y_marks:
            _, y = axes.place(box, (axes.x_marks[0], mark))
            self.line([(box[0], y), (box[2], y)], GRID)
            self.text((box[0] - 7, y), axes.label(mark), 12, "rm")
        for mark in axes.x_marks:
            x, _ = axes.place(box, (mark, axes.y_marks[0]))
            self.text((x, box[3] + 9), f"{mark:g}", 12, "mt")
        self.text(((box[0] + box[2]) / 2, HEIGHT - 10), "offered, requests / s", 12, "ms")
        for line in lines:
            spots = [axes.place(box, point) for point in line.points]
            self.line(spots, line.colour, line.width, line.dash)
            for spot in spots if not line.dash else []:
                self.dot(spot, line.colour, line.width * 1.6)


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
    small = canvas.image.resize(
        (canvas.image.width // FINE * 2, canvas.image.height // FINE * 2), Image.Resampling.LANCZOS
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    small.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def round_marks(highest: float, count: int = 5) -> list[float]:
    """0 to at least `highest` in about `count` steps of 1, 2 or 5 times a power of ten."""
    rough = highest / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [step * i for i in range(math.ceil(highest / step - 1e-9) + 1)]


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
    canvas.panel(0, Axes(title, x_marks, y_marks, "{:g}".format, log_x=True, log_y=True), lines)


def _shares(canvas: Canvas, sides: Mapping[str, Any]) -> None:
    lines = [_curve(sides, side, "good_share") for side in reversed(list(sides))]
    x_marks = log_marks([x for x, _ in lines[0].points])
    bar = Line([(x_marks[0], GOOD_SHARE), (x_marks[-1], GOOD_SHARE)], INK, 1.2, dash=5)
    title = f"Requests within {GOOD_SLOWDOWN:g} x their solo latency"
    axes = Axes(title, x_marks, [0, 0.2, 0.4, 0.6, 0.8, GOOD_SHARE, 1.0], "{:.0%}".format, log_x=True)
    canvas.panel(PANEL, axes, [bar, *lines])


def _goodput(canvas: Canvas, sides: Mapping[str, Any], capacity: float) -> None:
    lines = [_curve(sides, side, "goodput_rps") for side in reversed(list(sides))]
    x_marks, y_marks = (round_marks(max(point[axis] for line in lines for point in line.points)) for axis in (0, 1))
    most = min(x_marks[-1], y_marks[-1])
    everyone = Line([(0, 0), (most, most)], INK, 1.2, dash=5)
    title = f"Goodput, those requests / s (all: dashed; capacity {capacity:.1f})"
    canvas.panel(2 * PANEL, Axes(title, x_marks, y_marks, "{:g}".format), [everyone, *lines])


def _dashes(points: Points, length: float) -> list[tuple[float, float]]:
    """Ends of dashes and gaps along a straight line from the first point to the last."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    count = max(1, round(math.hypot(x1 - x0, y1 - y0) / length))
    return [(x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count) for i in range(count + 1)]

"""What fleet.py found, as a picture: loads and latency by routing; and the course of the run with faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.canvas import GRID, INK, Box, Canvas, Colour, round_marks
from benchmarks.parts.fleet.faults import DOWN, UP

Report = Mapping[str, Any]

WIDTH, MARGIN, BARS, COURSE = 1100, 24, 300, 360
BLUE, ORANGE, GREY, RED = (30, 98, 196), (222, 110, 34), (168, 170, 178), (200, 40, 40)
PALE = (250, 226, 206)
EDGE = 70  # px from the right, within which a name ends at its line
SIDES: Mapping[str, Colour] = {"adapters": BLUE, "round-robin": ORANGE, "random": GREY}
FIGURES = (
    ("loads_per_100", "Adapter loads / 100 requests"),
    ("p95", "P95 of latency, s"),
    ("goodput_rps", "Goodput, requests / s"),
)


def draw(report: Report, path: Path) -> None:
    """`report` is what fleet.py writes as JSON; what it hasn't measured is left out."""
    top, parts = 46, [name for name in ("real", "simulated") if name in report]
    height = top + (BARS if parts else 0) + (COURSE if "faults" in report else 0)
    canvas = Canvas(WIDTH, height)
    canvas.text((MARGIN, 30), "Several replicas: routing by adapters, and faults", 20)
    if parts:
        _bars(canvas, [report[name] for name in parts], parts, top)
    if "faults" in report:
        _course(canvas, report["faults"], (MARGIN + 40, height - COURSE + 60, WIDTH - MARGIN, height - 96))
    canvas.save(path)


def figure(side: Report, key: str) -> float:
    """A side's figure that is drawn."""
    return float(side["latency_s"]["p95"] if key == "p95" else side[key])


def _bars(canvas: Canvas, fleets: Sequence[Report], names: Sequence[str], top: float) -> None:
    """A group of bars for each figure and fleet, each figure on a scale of its own."""
    x = float(MARGIN)
    for name, colour in SIDES.items():
        canvas.box((x, top, x + 14, top + 12), colour)
        canvas.text((x + 20, top + 11), name, 13)
        x += 60 + 8 * len(name)
    width = (WIDTH - 2 * MARGIN) / len(FIGURES)
    for place, (key, title) in enumerate(FIGURES):
        left = MARGIN + place * width
        canvas.text((left, top + 44), title, 15)
        for group, (fleet, name) in enumerate(zip(fleets, names, strict=True)):
            start = left + group * width / 2
            box = (start, top + 56, start + width / 2 - 26, top + BARS - 44)
            _group(canvas, fleet, key, box)
            canvas.text(((box[0] + box[2]) / 2, box[3] + 22), f"{fleet['replicas']} replicas, {name}", 12, "ms")


def _group(canvas: Canvas, fleet: Report, key: str, box: Box) -> None:
    values = {name: figure(side, key) for name, side in fleet["sides"].items()}
    left, top, right, bottom = box
    each, most = (right - left) / len(values), max(values.values()) or 1.0
    for place, (name, value) in enumerate(values.items()):
        x, y = left + place * each, bottom - (bottom - top - 18) * value / most
        canvas.box((x + 4, y, x + each - 4, bottom), SIDES[name])
        canvas.text((x + each / 2, y - 4), f"{value:.3g}", 12, "ms")
    canvas.line([(left, bottom), (right, bottom)], INK)


def _course(canvas: Canvas, found: Report, box: Box) -> None:
    """Every request as a dot, every fault as a line, and beneath, when each replica wasn't ready."""
    left, top, right, bottom = box
    seconds: float = max(at_s + took_s for at_s, took_s, _ in found["answers"])
    marks = round_marks(max(took_s for _, took_s, _ in found["answers"]), 4)

    def x(at_s: float) -> float:
        return left + (right - left) * at_s / seconds

    def y(took_s: float) -> float:
        return bottom - (bottom - top) * took_s / marks[-1]

    said = f"Latency of {found['requests']} requests, s: {found['lost']} lost, {found['identical']} as in quiet"
    canvas.text((left - 40, top - 34), said, 15)
    down = [one["at_s"] for one in found["events"] if one["what"] in (DOWN, UP)]
    if len(down) == 2:
        canvas.box((x(down[0]), top, x(down[1]), bottom), PALE)
    for mark in marks:
        canvas.line([(left, y(mark)), (right, y(mark))], GRID)
        canvas.text((left - 7, y(mark)), f"{mark:g}", 12, "rm")
    for place, one in enumerate(found["events"]):
        at = x(one["at_s"])
        canvas.line([(at, top - 4), (at, bottom)], INK, 1.0, dash=5)
        anchor = "rs" if at > right - EDGE else "ms"
        canvas.text((at, top - 6 - 11 * (place % 2)), one["what"], 10, anchor)
    for at_s, took_s, status in found["answers"]:
        canvas.dot((x(at_s), y(took_s)), BLUE if status == 200 else RED, 1.6 if status == 200 else 4.0)
    for number in range(found["replicas"]):
        row = bottom + 12 + 18 * number
        canvas.text((left - 7, row + 5), f"{number}", 12, "rm")
        for (at_s, *ready), (until_s, *_) in zip(found["ready"], found["ready"][1:], strict=False):
            canvas.box((x(at_s), row, x(min(until_s, seconds)), row + 10), BLUE if ready[number] else ORANGE)
    canvas.text((left, bottom + 86), f"0 to {seconds:.0f} s; the replicas beneath: ready, and not ready", 12)

"""Drawings as polygons. The drawings themselves are data, in `shapes.txt`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from studio.painter.arrays import Points


@dataclass(frozen=True)
class Layer:
    """Polygons float [n, 2] of one role (object) or one #rrggbb colour (background)."""

    role: str
    polygons: tuple[Points, ...]


def layers(name: str, rng: np.random.Generator) -> list[Layer]:
    """The drawing's layers, far to near; lines of one role in a row are one layer."""
    found: list[Layer] = []
    for role, kind, numbers in _shapes()[name]:
        before = found.pop().polygons if found and found[-1].role == role else ()
        found.append(Layer(role, before + tuple(_polygons(kind, numbers, rng))))
    return found


@lru_cache(maxsize=64)
def object_layers(name: str) -> list[Layer]:
    return layers(name, np.random.default_rng(0))


@lru_cache(maxsize=1)
def _shapes() -> dict[str, list[tuple[str, str, tuple[float, ...]]]]:
    """shapes.txt as {name: [(role, kind, numbers)]}."""
    drawings: dict[str, list[tuple[str, str, tuple[float, ...]]]] = {}
    for line in Path(__file__).with_name("shapes.txt").read_text().splitlines():
        words = line.split()
        if not words or words[0] == "#":
            continue
        if words[0] in ("object", "background"):
            lines = drawings.setdefault(words[1], [])
        else:
            lines.append((words[0], words[1], tuple(map(float, words[2:]))))
    return drawings


def _polygons(kind: str, n: Sequence[float], rng: np.random.Generator) -> list[Points]:
    """The polygons of one line of shapes.txt."""
    match kind:
        case "poly":
            return [_pairs(n)]
        case "blob":
            return [_smooth(_pairs(n), closed=True)]
        case "line":
            return [_ribbon(_pairs(n[1:]), n[0])]
        case "curve":
            return [_ribbon(_smooth(_pairs(n[1:]), closed=False), n[0])]
        case "oval":
            return [_oval(*n)]
        case "dome":
            return [_dome(*n)]
        case "star":
            return [_star(*n)]
        case "petals":
            return _petals(*n)
        case "scatter":
            spots = rng.uniform(n[2:4], n[4:6], (int(n[0]), 2))
            return [_oval(x, y, n[1], n[1]) for x, y in spots]
    raise ValueError(f"shapes.txt: unknown kind {kind!r}")


def _pairs(numbers: Sequence[float]) -> Points:
    return np.array(numbers, np.float64).reshape(-1, 2)


def _smooth(points: Points, closed: bool) -> Points:
    """Catmull-Rom curve through points [n, 2], 6 samples a segment."""
    padded = np.concatenate([points[-1:], points, points[:2]] if closed else [points[:1], points, points[-1:]])
    a, b, c, d = (padded[i : len(padded) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, 6, endpoint=False)[None, :, None]
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


def _ribbon(points: Points, width: float) -> Points:
    """Outline of a stroke of this width along points [n, 2]."""
    along = np.gradient(points, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], 1) / np.linalg.norm(along, axis=1, keepdims=True) * width / 2
    return np.concatenate([points + normal, (points - normal)[::-1]])


def _oval(x: float, y: float, rx: float, ry: float, degrees: float = 0) -> Points:
    angle, turn = np.linspace(0, 2 * np.pi, 36, endpoint=False), np.radians(degrees)
    u, v = rx * np.cos(angle), ry * np.sin(angle)
    return np.stack([x + u * np.cos(turn) - v * np.sin(turn), y + u * np.sin(turn) + v * np.cos(turn)], 1)


def _dome(x: float, y: float, rx: float, ry: float) -> Points:
    angle = np.linspace(np.pi, 2 * np.pi, 24)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)


def _star(x: float, y: float, outer: float, inner: float, tips: float) -> Points:
    angle = np.arange(2 * int(tips)) * np.pi / tips - np.pi / 2
    radius = np.where(np.arange(len(angle)) % 2, inner, outer)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1)


def _petals(x: float, y: float, ring: float, rx: float, ry: float, count: float, start: float = 0) -> list[Points]:
    turns = start + np.arange(int(count)) * 360 / count
    return [_oval(x + ring * np.cos(np.radians(t)), y + ring * np.sin(np.radians(t)), rx, ry, t) for t in turns]

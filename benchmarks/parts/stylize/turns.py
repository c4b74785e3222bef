"""Turns: everybody paints the same pictures, one side after the other; what came of it, and how alike they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from benchmarks.parts.stylize.peers import Done, Job
from PIL import Image

Paint = Callable[[Job], Done]


@dataclass(frozen=True)
class Side:
    """Who paints. `alone`: one picture after another, however many users there are."""

    name: str
    paint: Paint
    alone: bool = False


@dataclass(frozen=True)
class Turn:
    """Pictures, their seconds on the clock, and what of those went into files: known where one came after another."""

    pictures: int
    seconds: float
    files_s: float

    @property
    def rate(self) -> float:
        """Pictures a second, file to file."""
        return self.pictures / self.seconds

    @property
    def rate_without_files(self) -> float:
        return self.pictures / (self.seconds - self.files_s)


def taken(side: Side, jobs: Sequence[Job], users: int) -> Turn:
    """`users` share the jobs, each with one under way."""
    begun = perf_counter()
    if users == 1 or side.alone:
        done = [side.paint(job) for job in jobs]
    else:
        with ThreadPoolExecutor(users) as pool:
            done = list(pool.map(side.paint, jobs))
    return Turn(len(jobs), perf_counter() - begun, sum(one.files_s for one in done))


def difference(a: Image.Image, b: Image.Image) -> dict[str, float]:
    """Mean and largest difference of two RGB pictures of one size, in levels of 255."""
    apart = np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32))
    return {"mean": round(float(apart.mean()), 3), "max": float(apart.max())}


def worst(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: max(one[key] for one in found) for key in found[0]}

"""What a sampler is to the rest of the server: a generator of questions to a backbone, which returns a sample.

    steps = family.begin(request, seed, seen, contexts)
    ask = next(steps)                    # what a backbone must be run on
    ask = steps.send(answer)             # ... until StopIteration carries the finished sample

Who is sent the answers doesn't know which guidance made them, nor who else is in the batch; dropping the generator
cancels it. What it remembers of its steps are local variables.

A cascade is one generator that goes on with another, on another backbone:

    sample = yield from at_stage(base, "base", 0, 30)
    return (yield from at_stage(upscale(sample), "upscale", 20, 30))
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Sample = NDArray[Any]
Finished = Any  # what a sampler returns: a sample, or whatever its family makes pictures of that has a size, too

BASE = "base"  # the stage of a family that has one


@dataclass(frozen=True)
class Ask:
    """What a sampler needs next: the answer of the backbone of its `stage` to `sample` at `timestep`.

    What a sample is and what a timestep counts is the family's: latents [C, h, w] at a training timestep, or tokens
    [h, w] at the share of steps to come. `step` counts from 0 to `steps` - 1, those of all stages that are run;
    `before` are those of earlier stages, `after` those of later ones. `denoised` is what the finished sample is taken
    to be, None while nobody knows. `lane` asks one lane alone, whatever the guidance weighs it with; None asks all that
    count.
    """

    sample: Sample
    timestep: float
    step: int
    steps: int
    denoised: Finished | None = None
    stage: str = BASE
    lane: int | None = None
    before: int = 0
    after: int = 0

    @property
    def progress(self) -> float:
        """0 at the first step of its stage, 1 at the last."""
        last = self.steps - self.after - 1
        return (self.step - self.before) / (last - self.before) if last > self.before else 1.0


Steps = Generator[Ask, NDArray[np.float32], Finished]


def at_stage(steps: Steps, stage: str, done: int, total: int) -> Steps:
    """The same sampler as a part of a cascade: its steps come behind `done` others, and there are `total` in all."""
    ask = next(steps)
    while True:
        after = total - done - ask.steps
        answer = yield replace(ask, stage=stage, step=done + ask.step, steps=total, before=done, after=after)
        try:
            ask = steps.send(answer)
        except StopIteration as stop:
            return stop.value


def run_steps(steps: int, strength: float, cut: bool = False) -> int:
    """How many of `steps` are run from content: all, or where strength `cut`s the upper ones off, ⌊steps · strength⌋.

    That is 0 to `steps`. A strength of 0.7 arrives as the float32 below it, and is still 7 steps of 10.
    """
    return min(int(steps * round(strength, 6)), steps) if cut else steps

"""The interface of a sampler: a generator that yields questions to a backbone and returns a finished sample.

    steps = family.begin(request, seed, seen, contexts)
    ask = next(steps)                    # what a backbone must be run on
    ask = steps.send(answer)             # ... until StopIteration carries the finished sample

A sampler knows neither which guidance made the answers nor who else is in the batch. Its state is local variables, so
dropping the generator cancels it.

A cascade is one generator that continues with another, on another backbone:

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
Finished = Any  # what a sampler returns: a sample, or anything with a `size` that its family can decode

BASE = "base"  # the only stage of a family that has one


@dataclass(frozen=True)
class Ask:
    """What a sampler needs next: the answer of its `stage`'s backbone to `sample` at `timestep`.

    The family says what sample and timestep are: latents [C, h, w] at a training timestep, or tokens [h, w] at the
    share of steps to come. `step` counts from 0 to `steps` - 1 over all stages that are run; `before` and `after` are
    the numbers of steps in earlier and later stages. `denoised` is the predicted final sample, None if there is none.
    `lane` asks one lane only, ignoring guidance; None asks all lanes that count.
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
    """The same sampler as one stage of a cascade: `done` steps come before it, and there are `total` in all."""
    ask = next(steps)
    while True:
        after = total - done - ask.steps
        answer = yield replace(ask, stage=stage, step=done + ask.step, steps=total, before=done, after=after)
        try:
            ask = steps.send(answer)
        except StopIteration as stop:
            return stop.value


def run_steps(steps: int, strength: float, cut: bool = False) -> int:
    """How many of `steps` are run: all, or ⌊steps · strength⌋ where the strength `cut`s off the first ones.

    The strength is rounded, because 0.7 arrives as the float32 below it and must still be 7 steps of 10.
    """
    return min(int(steps * round(strength, 6)), steps) if cut else steps

"""A job in the step loop: it makes the rows of a batch and turns their answers into steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.seat import Seat
from impasto_server.backbone import Row
from impasto_server.batch import Turn
from impasto_server.errors import ImpastoError
from impasto_server.guidance import Guidance, Mix, combine
from impasto_server.job import Job
from impasto_server.steps import Ask, Finished, Steps

Array = NDArray[np.float32]


@dataclass
class Candidate:
    """One of a request's pictures in the making: its sampler and the sampler's current question."""

    steps: Steps
    ask: Ask


@dataclass(frozen=True)
class Lanes:
    """The lanes of a stage: their coefficients, and for each a context that only the family understands."""

    guidance: Guidance
    contexts: Sequence[Any]


@dataclass(eq=False)
class Running:
    """A job in the step loop: its lanes by stage, a seat for each of their mixes, and its candidates.

    `live` are the lanes that count at this step, with their coefficients. `answers` are the backbone's answers for this
    step so far, the first candidate's lanes first.
    """

    job: Job
    stages: Mapping[str, Lanes]
    seats: Mapping[Mix, Seat]
    candidates: tuple[Candidate, ...]
    last_batch: int = 0
    answers: list[Array] = field(default_factory=list)
    live: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        self.aim()

    @property
    def ask(self) -> Ask:
        """The first candidate's question; the others' differ only in their samples."""
        return self.candidates[0].ask

    @property
    def missing(self) -> int:
        """Rows without an answer."""
        return len(self.candidates) * len(self.live) - len(self.answers)

    @property
    def lanes(self) -> Lanes:
        """The lanes of the current stage."""
        return self.stages[self.ask.stage]

    @property
    def strength(self) -> float:
        """The guidance strength at this step, 0 to 1."""
        return self.ask.progress if self.job.request.sampling.ramp else 1.0

    def aim(self) -> None:
        """Find the lanes that count at this step; keep one if all coefficients are 0."""
        if self.ask.lane is not None:
            self.live = ((self.ask.lane, 1.0),)
            return
        coefficients = list(enumerate(self.lanes.guidance.at(self.strength)))
        self.live = tuple(part for part in coefficients if part[1] != 0) or tuple(coefficients[:1])

    def rows(self, count: int) -> list[Row]:
        """The next `count` rows that have no answer yet."""
        wanted = ((candidate.ask, lane) for candidate in self.candidates for lane, _ in self.live)
        chosen = islice(wanted, len(self.answers), len(self.answers) + count)
        return [self._row(ask, lane) for ask, lane in chosen]

    def _row(self, ask: Ask, lane: int) -> Row:
        lanes = self.lanes
        return Row(ask, lanes.contexts[lane], self.seats[lanes.guidance.lanes[lane].mix])

    def advance(self) -> list[Finished]:
        """Send the combined answers to the samplers. Returns the finished samples after the last step, else nothing.

        Raises ImpastoError where answers aren't finite.
        """
        finished: list[Finished] = []
        for candidate, guided in zip(self.candidates, self._guided(), strict=True):
            if not np.isfinite(guided).all():
                step = f"step {self.job.steps_done + 1} of {self.ask.steps}"
                raise ImpastoError(f"{step} gave NaN or infinity; lower the weights of the adapters, or the guidance")
            try:
                candidate.ask = candidate.steps.send(guided)
            except StopIteration as stop:
                finished.append(stop.value)
        self.job.steps_done += 1
        if not finished:
            self.aim()
        return finished

    def _guided(self) -> list[Array]:
        """The combined answer for each candidate. All answers must be there; they are cleared."""
        answers, self.answers = iter(self.answers), []
        coefficients = [coefficient for _, coefficient in self.live]
        return [combine(coefficients, list(islice(answers, len(self.live)))) for _ in self.candidates]

    def turn(self, batch: int) -> Turn[Running]:
        return Turn(
            who=self,
            lanes=self.missing,
            kind=(self.ask.stage, self.ask.sample.shape),
            new=self.job.steps_done == 0,
            passed_over=batch - self.last_batch,
            remaining=self.ask.steps - self.ask.step,
            time_left_s=self.job.time_left_s(),
        )

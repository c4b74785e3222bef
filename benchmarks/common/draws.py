"""When two programs' masked tokens are equal, though their logits are rounded differently.

A token is the first whose cumulative probability exceeds a uniform number, and those with the least log p + τ · Gumbel
are masked again. Where the two sides of such a comparison are nearer than rounding goes, two right programs part, and
all that they draw afterwards differs. So they are compared step by step, the second led by the first: it is given the
first one's tokens and random numbers. They are equal when at every step

- guided logits differ by at most LOGITS of the largest one, which is what graphs are allowed;
- a token is the same, or its uniform number lies between the two programs' cumulative probabilities (both summed here,
  in float64, from the program's own logits) at which the draws part, give or take SUMS, what float32 sums are off by;
- the same places are masked again, or the two that changed sides are nearer to each other, in either program's own
  confidences, than these are rounded (`Step.room`).

Anything else is told as wrong: its step, its place, and how far it is off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers import AmusedScheduler
from diffusers.schedulers import scheduling_amused
from numpy.typing import NDArray
from torch import Tensor

from impasto_server.families.masked import maskgit
from impasto_server.families.masked.maskgit import ANNEALS
from impasto_server.request import Request

Codes = NDArray[np.int64]
Places = NDArray[np.bool_]
Reals = NDArray[np.float64]

LOGITS = 1e-4
HALF_ULP = 2.0**-24  # float32's, relative: one rounding
# Of a weight on its way into a sum: at most 31 in its block's, the rest for the difference, exp, quotient and total.
ROUNDINGS = 64
# Weights that are off by r, relative, move a cumulative probability F by F (1 - F) · 2r, at most r / 2.
SUMS = ROUNDINGS * HALF_ULP / 2


@dataclass(frozen=True)
class Step:
    """One step of one program, over n places in the order of reading.

    It was given `tokens` [n], of which `unknown` bool [n] were masked; from guided `logits` [codes, n] it has `drawn`
    [n]; `again` bool [n] are masked in what the next step is given, none after the last.
    """

    tokens: Codes
    unknown: Places
    logits: NDArray[np.floating[Any]]
    drawn: Codes
    again: Places

    def cumulative(self, places: Codes) -> Reals:
        """[codes, places], float64."""
        logits = self.logits[:, places].astype(np.float64)
        sums = np.cumsum(np.exp(logits - logits.max(axis=0)), axis=0)
        return np.asarray(sums / sums[-1])

    def certainty(self, places: Codes) -> Reals:
        """log p of what was drawn, float64."""
        logits = self.logits[:, places].astype(np.float64)
        shifted = logits - logits.max(axis=0)
        found = np.take_along_axis(shifted, self.drawn[None, places], axis=0)[0]
        return np.asarray(found - np.log(np.exp(shifted).sum(axis=0)))

    def room(self, places: Codes, noise: Reals) -> Reals:
        """How far a float32 confidence may be off: its log of a sum, and four roundings of each addend."""
        return np.asarray(HALF_ULP * (ROUNDINGS + 4 * (np.abs(self.certainty(places)) + np.abs(noise[places]))))


@dataclass(frozen=True)
class Chance:
    """A step's random numbers [n], and the `tau` of those that are added to log p."""

    uniform: Reals
    gumbel: Reals
    tau: float

    @property
    def noise(self) -> Reals:
        return self.tau * self.gumbel


@dataclass(frozen=True)
class Story:
    """A picture's steps by one program, and the random numbers that any other is given."""

    steps: tuple[Step, ...]
    chances: tuple[Chance, ...]

    @property
    def tokens(self) -> Codes:
        """[n], finished."""
        return self.steps[-1].drawn

    def given(self, step: int) -> Codes:
        """What `step` begins with; after the last, the finished tokens."""
        return self.steps[step].tokens if step < len(self.steps) else self.tokens


@dataclass(frozen=True)
class Verdict:
    """Of `drawn` tokens, `between` fell between two sums; `wrong` says what can't be explained so, if anything."""

    drawn: int = 0
    between: int = 0
    wrong: tuple[str, ...] = ()

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(self.drawn + other.drawn, self.between + other.between, self.wrong + other.wrong)


def compare(story: Story, led: Sequence[Step]) -> Verdict:
    """`story` beside what a program made of its steps that was led by it."""
    assert len(led) == len(story.steps), f"{len(story.steps)} steps, the other program has {len(led)}"
    verdict = Verdict()
    for number, (ours, theirs, chance) in enumerate(zip(story.steps, led, story.chances, strict=True)):
        found = compare_step(ours, theirs, chance)
        verdict += Verdict(found.drawn, found.between, tuple(f"step {number}: {what}" for what in found.wrong))
    return verdict


def compare_step(ours: Step, theirs: Step, chance: Chance) -> Verdict:
    assert np.array_equal(ours.tokens, theirs.tokens), "the other program was not led"
    off, most = float(np.abs(ours.logits - theirs.logits).max()), float(np.abs(ours.logits).max())
    wrong: tuple[str, ...] = () if off <= LOGITS * most else (f"logits up to {most:.1f} are {off:.1e} apart",)
    parted = np.flatnonzero(ours.drawn != theirs.drawn)
    far = _beyond_two_sums(ours, theirs, chance, parted)
    for place, by in far:
        wrong += (f"place {place}: drawn {ours.drawn[place]} and {theirs.drawn[place]}, {by:.1e} off",)
    return Verdict(int(ours.unknown.sum()), len(parted) - len(far), wrong + _masked_apart(ours, theirs, chance.noise))


def _beyond_two_sums(ours: Step, theirs: Step, chance: Chance, parted: Codes) -> list[tuple[int, float]]:
    """Those of `parted` whose uniform number lies outside all that rounding explains, and by how much."""
    column = np.arange(len(parted))
    first = np.minimum(ours.drawn, theirs.drawn)[parted]
    last = np.maximum(ours.drawn, theirs.drawn)[parted] - 1
    sums = ours.cumulative(parted), theirs.cumulative(parted)
    low, high = np.minimum(*sums)[last, column], np.maximum(*sums)[first, column]
    off = np.maximum(low - chance.uniform[parted], chance.uniform[parted] - high)
    off[~ours.unknown[parted]] = np.inf  # nothing was to be drawn there
    return [(int(place), float(by)) for place, by in zip(parted, off, strict=True) if by > SUMS]


def _masked_apart(ours: Step, theirs: Step, noise: Reals) -> tuple[str, ...]:
    if ours.again.sum() != theirs.again.sum():
        return (f"{ours.again.sum()} and {theirs.again.sum()} places are masked again",)
    here, there = np.flatnonzero(ours.again & ~theirs.again), np.flatnonzero(theirs.again & ~ours.again)
    # Each program holds its own place to be the less certain one.
    off = max(_by(ours, here, there, noise), _by(theirs, there, here, noise))
    return (f"places {here} and {there} are masked again: their confidences are {off:.1e} off",) if off > 0 else ()


def _by(program: Step, less: Codes, more: Codes, noise: Reals) -> float:
    """By how much a place of `less` is more certain than one of `more`, beyond rounding."""
    sides = [(program.certainty(places) + noise[places], program.room(places, noise)) for places in (less, more)]
    (below, room), (above, other) = sides
    return float(np.max((below - room)[:, None] - (above + other)[None], initial=-np.inf))


# impasto's side


@dataclass(frozen=True)
class Note:
    """A call of `maskgit.draw`: what it was given and found, and log p of that."""

    uniform: Reals
    step: Step
    certainty: Reals


@dataclass(frozen=True)
class Decoding:
    """How a stage decodes: in so many `steps`, of which some are `behind` it when it begins, annealed by `scheduler`
    from `temperature`."""

    steps: int
    temperature: float
    scheduler: str
    behind: int = 0

    def tau(self, done: int) -> float:
        return self.temperature * ANNEALS[self.scheduler](done, self.steps)


@dataclass(frozen=True)
class Notes:
    """All calls, by their uniform numbers: these belong to one step of one picture."""

    calls: dict[bytes, Note] = field(default_factory=dict)

    def story(self, request: Request, draws: np.random.Generator, places: int) -> Story:
        """What the first stage made of a picture of so many tokens; `draws` are those of its seed, less what was drawn
        before the first step."""
        steps = request.sampling.steps
        first = Decoding(steps, request.own["TEMPERATURE"], request.sampling.scheduler, steps - request.steps_to_run)
        return self.told(first, draws, places)

    def told(self, stage: Decoding, draws: np.random.Generator, places: int) -> Story:
        """What a stage made of so many tokens; `draws` go on from those of the stages before, to the stage's end."""
        steps, chances = list[Step](), list[Chance]()
        for done in range(stage.behind, stage.steps):
            note = self.calls[draws.random(places).tobytes()]
            steps.append(note.step)
            chances.append(Chance(note.uniform, draws.gumbel(size=places), stage.tau(done)))
        shown = [replace(step, again=after.unknown) for step, after in pairwise(steps)]
        return Story((*shown, *steps[-1:]), tuple(chances))

    def led(self, story: Story) -> list[Step]:
        """What was made of `story`'s steps."""
        notes = [self.calls[chance.uniform.tobytes()] for chance in story.chances]
        return [
            replace(note.step, again=least(note.certainty + chance.noise, note.step.unknown, int(told.again.sum())))
            for note, chance, told in zip(notes, story.chances, story.steps, strict=True)
        ]


def least(confidence: Reals, unknown: Places, count: int) -> Places:
    """The `count` places of `unknown` with the least confidence."""
    again = np.zeros_like(unknown)
    again[np.argsort(np.where(unknown, confidence, np.inf), kind="stable")[:count]] = True
    return again


@contextmanager
def noted(*leaders: Story) -> Iterator[Notes]:
    """Note what the pipelines of this process draw meanwhile; pictures of `leaders` are led by them."""
    notes, draw = Notes(), maskgit.draw
    told = {
        chance.uniform.tobytes(): step
        for story in leaders
        for step, chance in zip(story.steps, story.chances, strict=True)
    }

    def noting(logits: maskgit.Array, tokens: Codes, unknown: Places, uniform: Reals) -> tuple[Codes, Reals]:
        drawn, certainty = draw(logits, tokens, unknown, uniform)
        step = Step(tokens.copy(), unknown.copy(), logits.copy(), drawn, np.zeros_like(unknown))
        assert uniform.tobytes() not in notes.calls, "two pictures of one seed can't be told apart"
        notes.calls[uniform.tobytes()] = Note(uniform, step, certainty)
        leader = told.get(uniform.tobytes())
        if leader is None:
            return drawn, certainty
        return leader.drawn.copy(), np.where(leader.again, -np.inf, np.inf)

    with patch.object(maskgit, "draw", noting):
        yield notes


# diffusers' side


@contextmanager
def drawing(draws: np.random.Generator) -> Iterator[None]:
    """Let diffusers' scheduler draw, for one picture, what impasto_server.families.masked.maskgit draws from `draws`.

    Both sides draw at each step as many uniform numbers as there are places, then as many Gumbel ones.
    """

    def multinomial(weights: Tensor, count: int, generator: object = None) -> Tensor:
        ends = weights.double().cumsum(1)
        targets = torch.from_numpy(draws.random(len(weights))).to(ends)[:, None] * ends[:, -1:]
        return (ends <= targets).sum(1, keepdim=True).clamp(max=weights.shape[1] - 1)

    def gumbel(confidence: Tensor, generator: object = None) -> Tensor:
        return torch.from_numpy(draws.gumbel(size=confidence.numel())).to(confidence.device).reshape(confidence.shape)

    with (
        patch.object(torch, "multinomial", multinomial),
        patch.object(scheduling_amused, "gumbel_noise", gumbel),
    ):
        yield


@contextmanager
def leading(story: Story) -> Iterator[list[Step]]:
    """Let diffusers' scheduler go on from `story`'s tokens after each step of one picture; note what it drew."""
    steps, step_of = list[Step](), AmusedScheduler.step

    def step(self: Any, model_output: Tensor, timestep: int, sample: Tensor, **options: Any) -> Any:
        answer = step_of(self, model_output, timestep, sample, **options)
        mask_id = self.config.mask_token_id
        tokens, drawn, after = (
            found.cpu().numpy().reshape(-1) for found in (sample, answer.pred_original_sample, answer.prev_sample)
        )
        logits = model_output[0].float().cpu().numpy()
        steps.append(Step(tokens, tokens == mask_id, logits.reshape(len(logits), -1), drawn, after == mask_id))
        answer.prev_sample = torch.from_numpy(story.given(len(steps))).to(sample).reshape(sample.shape)
        return answer

    with patch.object(AmusedScheduler, "step", step):
        yield steps

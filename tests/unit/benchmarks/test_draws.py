"""Two programs' tokens: which differences rounding explains, and that no other passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.common.draws import SUMS, Chance, Notes, Step, Story, compare, compare_step, drawing, leading, noted
from diffusers import AmusedScheduler

from impasto_server.families.masked import maskgit
from impasto_server.families.masked.maskgit import ANNEALS, Canvas, Masks, decode
from impasto_server.request import Request

CODES, SIDE, MASK_ID = 64, 8, 79
PLACES = SIDE * SIDE
REQUEST = Request("", seed=1, width=8 * SIDE, height=8 * SIDE, steps=6, scheduler="amused", temperature=2.0)


def philox(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def logits_at(step: int, seed: int = 5) -> np.ndarray[Any, np.dtype[np.float32]]:
    return 3 * np.random.default_rng((seed, step)).standard_normal((CODES, SIDE, SIDE)).astype(np.float32)


def run(logits: Callable[[int], Any] = logits_at) -> None:
    """A picture as the pipeline samples it, from logits that depend on the step alone."""
    blank = np.full((SIDE, SIDE), MASK_ID, np.int64)
    sampler = decode(Canvas(blank, MASK_ID), REQUEST.steps, Masks(), ANNEALS["amused"], 2.0, philox(REQUEST.seed))
    next(sampler)
    for step in range(REQUEST.steps - 1):
        sampler.send(logits(step))
    with pytest.raises(StopIteration):
        sampler.send(logits(REQUEST.steps - 1))


def story() -> Story:
    with noted() as notes:
        run()
    return notes.story(REQUEST, philox(REQUEST.seed), PLACES)


def led(leader: Story, logits: Callable[[int], Any]) -> list[Step]:
    with noted(leader) as notes:
        run(logits)
    return notes.led(leader)


def test_a_program_agrees_with_itself() -> None:
    told = story()
    assert len(told.steps) == REQUEST.steps
    verdict = compare(told, led(told, logits_at))
    assert (verdict.between, verdict.wrong) == (0, ())
    assert verdict.drawn == sum(int(step.unknown.sum()) for step in told.steps) > PLACES


def test_diffusers_agrees() -> None:
    told = story()
    scheduler: Any = AmusedScheduler(mask_token_id=MASK_ID)
    scheduler.set_timesteps(REQUEST.steps, (2, 0))
    sample = torch.full((1, SIDE, SIDE), MASK_ID)
    with drawing(philox(REQUEST.seed)), leading(told) as theirs:
        for step, timestep in enumerate(scheduler.timesteps):
            sample = scheduler.step(torch.from_numpy(logits_at(step))[None], timestep, sample).prev_sample
    assert compare(told, theirs).wrong == ()
    np.testing.assert_array_equal(sample.numpy().reshape(-1), told.tokens)


def test_who_is_led_goes_on_from_the_leaders_tokens() -> None:
    told = story()
    found = led(told, lambda step: logits_at(step, seed=6))
    for ours, theirs in zip(told.steps, found, strict=True):
        np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    assert len(compare(told, found).wrong) >= REQUEST.steps, "other logits are another picture"


def one_place(gap: float) -> tuple[Step, Chance]:
    """Two tokens of one half each, and a uniform number `gap` above the first one's end."""
    yes, no = np.ones(1, np.bool_), np.zeros(1, np.bool_)
    step = Step(np.array([MASK_ID]), yes, np.full((2, 1), 2, np.float32), np.array([1]), no)
    return step, Chance(np.array([0.5 + gap]), np.zeros(1), 0.0)


@pytest.mark.parametrize(("gap", "excused"), [(0.0, True), (SUMS / 2, True), (2 * SUMS, False), (-2 * SUMS, False)])
def test_equal_sums_excuse_what_summing_rounds(gap: float, excused: bool) -> None:
    step, chance = one_place(gap)
    verdict = compare_step(step, replace(step, drawn=np.array([0])), chance)
    assert (verdict.between, not verdict.wrong) == (int(excused), excused)


@pytest.mark.parametrize(("gap", "excused"), [(2e-5, True), (4e-5, False)])
def test_logits_that_differ_excuse_what_lies_between_their_sums(gap: float, excused: bool) -> None:
    """Logits 1e-4 apart move the end of a token of one half by 2.5e-5."""
    step, chance = one_place(gap)
    other = replace(step, logits=np.array([[2.0 + 1e-4], [2.0]], np.float32), drawn=np.array([0]))
    assert (not compare_step(step, other, chance).wrong) == excused


def test_logits_further_apart_than_graphs_may_be_are_wrong() -> None:
    step, chance = one_place(0.3)
    verdict = compare_step(step, replace(step, logits=step.logits + np.float32(1e-3)), chance)
    assert verdict.wrong == ("logits up to 2.0 are 1.0e-03 apart",)


def test_a_known_token_never_changes() -> None:
    step, chance = one_place(0.0)
    known = replace(step, unknown=np.zeros(1, np.bool_))
    assert compare_step(known, replace(known, drawn=np.array([0])), chance).wrong


def two_places(apart: float) -> tuple[Step, Step, Chance]:
    """Of two tokens of the same probability one program masks the first again, one the second."""
    yes = np.ones(2, np.bool_)
    first = Step(np.full(2, MASK_ID), yes, np.ones((2, 2), np.float32), np.zeros(2, np.int64), np.array([True, False]))
    return first, replace(first, again=~first.again), Chance(np.full(2, 0.1), np.array([0.0, apart]), 1.0)


def test_places_of_equal_confidence_may_change_sides() -> None:
    ours, theirs, chance = two_places(1e-6)
    assert compare_step(ours, theirs, chance).wrong == ()


@pytest.mark.parametrize("apart", [1e-3, -1e-3])
def test_places_of_other_confidence_may_not(apart: float) -> None:
    ours, theirs, chance = two_places(apart)
    (wrong,) = compare_step(ours, theirs, chance).wrong
    assert wrong.startswith("places [0] and [1] are masked again: their confidences are")


def test_as_many_are_masked_again() -> None:
    ours, theirs, chance = two_places(0.0)
    fewer = replace(theirs, again=np.zeros(2, np.bool_))
    assert compare_step(ours, fewer, chance).wrong == ("1 and 0 places are masked again",)


def test_one_wrong_draw_of_a_picture_is_found() -> None:
    told = story()
    steps = list(told.steps)
    drawn = steps[3].drawn.copy()
    place = int(np.flatnonzero(steps[3].unknown)[0])
    drawn[place] = (drawn[place] + 1) % CODES
    steps[3] = replace(steps[3], drawn=drawn)
    (wrong, *_) = compare(told, steps).wrong
    assert wrong.startswith(f"step 3: place {place}: drawn ")


def test_drawing_is_the_pipelines_own_again_afterwards() -> None:
    own = maskgit.draw
    with noted() as notes:
        assert maskgit.draw is not own
    assert maskgit.draw is own
    assert notes == Notes()

"""MaskGIT's decoding, token for token: a plain loop written from the paper, and diffusers' AmusedScheduler.

Either is given the same tokens and random numbers, so nothing is compared in distribution; benchmarks/common/draws.py
says when draws are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pytest
import torch
from benchmarks.common.draws import Chance, Step, Story, Verdict, compare, compare_step, drawing, leading, noted
from diffusers import AmusedScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from impasto_server.families.diffusion.samplers import Ask
from impasto_server.families.masked.maskgit import ANNEALS, BLOCK, Canvas, Codes, Masks, decode, draw, masked
from impasto_server.request import Request

Logits = NDArray[np.float32]
Model = Callable[[Codes], Logits]
ScheduleName = Literal["cosine", "linear"]

SIDE, CODES, MASK = 8, 40, 45
BLANK = np.full((SIDE, SIDE), MASK, np.int64)
SCHEDULES: tuple[ScheduleName, ...] = ("cosine", "linear")
STEPS = st.integers(1, 40)
SEED = st.integers(0, 1000)


def model(seed: int = 0) -> Model:
    """Logits [codes, h, w] of a place depend on its token, the place itself, and on every other token."""
    rng = np.random.default_rng(seed)
    table, places = rng.standard_normal((MASK + 1, CODES)), rng.standard_normal((SIDE, SIDE, CODES))

    def predict(tokens: Codes) -> Logits:
        rows = table[tokens]
        return np.ascontiguousarray((rows + places + 3 * rows.mean(axis=(0, 1))).transpose(2, 0, 1), np.float32)

    return predict


def ours(predict: Model, start: Codes, steps: int, schedule: ScheduleName, anneal: str, tau: float) -> Story:
    request = Request("", seed=0, width=SIDE, height=SIDE, steps=steps, scheduler=anneal, temperature=tau)
    with noted() as notes:
        walk(predict, Canvas(start, MASK), steps, schedule, anneal, tau)
    return notes.story(request, np.random.default_rng(steps), start.size)


def walk(
    predict: Model,
    canvas: Canvas,
    steps: int,
    schedule: ScheduleName = "cosine",
    anneal: str = "maskgit",
    tau: float = 1,
) -> tuple[list[Ask], Codes]:
    sampler = decode(canvas, steps, Masks(schedule), ANNEALS[anneal], tau, np.random.default_rng(steps))
    asked = [next(sampler)]
    while True:
        try:
            asked.append(sampler.send(predict(asked[-1].sample)))
        except StopIteration as stop:
            return asked, stop.value


def plain_loop(predict: Model, start: Codes, story: Story, tau: float) -> list[Step]:
    """methods.md §1, in torch and float64: (1) sample, (2) how many, (3) confidence, (4) mask the least sure again.

    Over what each of `story`'s steps had. The schedule is in float32, as in everybody's code: where the exact count is
    whole, that decides.
    """
    n_0, steps, made = int((start == MASK).sum()), len(story.steps), list[Step]()
    for k, (told, chance) in enumerate(zip(story.steps, story.chances, strict=True)):
        x, u, gumbel = (torch.from_numpy(array) for array in (told.tokens, chance.uniform, chance.gumbel))
        seen = predict(told.tokens.reshape(start.shape)).reshape(CODES, -1)
        p, unknown = torch.from_numpy(seen).double().T.softmax(dim=-1), x == MASK
        sampled = torch.searchsorted(p.cumsum(dim=-1), u[:, None], right=True)[:, 0].clamp(max=CODES - 1)
        x_hat = torch.where(unknown, sampled, x)
        r = torch.tensor((k + 1) / steps)
        m = max(1, min(int(unknown.sum()) - 1, int((n_0 * torch.cos(r * math.pi / 2)).floor()))) if k < steps - 1 else 0
        confidence = p.log().gather(1, x_hat[:, None])[:, 0] + tau * (1 - (k + 1) / steps) * gumbel
        confidence[~unknown] = torch.inf
        again = torch.zeros_like(unknown).index_fill(0, confidence.argsort()[:m], True)
        made.append(Step(told.tokens, unknown.numpy(), seen, x_hat.numpy(), again.numpy()))
    return made


def partly_known(seed: int = 3) -> Codes:
    rng = np.random.default_rng(seed)
    return np.where(rng.random((SIDE, SIDE)) < 0.4, rng.integers(0, CODES, (SIDE, SIDE)), MASK)


@pytest.mark.parametrize("tau", [0.0, 1.0, 4.5])
@pytest.mark.parametrize("start", ["blank", "partly known"])
@pytest.mark.parametrize("steps", [1, 2, 5, 12, 36])
def test_every_token_of_every_step_is_the_plain_loops(steps: int, start: str, tau: float) -> None:
    tokens = BLANK if start == "blank" else partly_known()
    story = ours(model(steps), tokens, steps, "cosine", "maskgit", tau)
    assert np.array_equal(story.steps[0].tokens, tokens.reshape(-1))
    assert len(story.steps) == steps
    assert_right(compare(story, plain_loop(model(steps), tokens, story, tau)))


def assert_right(verdict: Verdict) -> None:
    assert not verdict.wrong, "\n".join(verdict.wrong)
    assert verdict.between <= 1 + verdict.drawn / 1000, "so many can't fall between two sums of the same logits"


def test_what_the_plain_loop_is_asked_with_matters() -> None:
    """Or the test above could pass with τ ignored on both sides."""
    cold, warm = (ours(model(), BLANK, 12, "cosine", "maskgit", tau) for tau in (0.0, 4.5))
    assert (cold.tokens != warm.tokens).any()
    assert compare(cold, plain_loop(model(), BLANK, cold, 4.5)).wrong


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", range(1, 41))
def test_every_token_of_every_step_is_amused_schedulers(steps: int, schedule: ScheduleName) -> None:
    """diffusers' own step with its own softmax, masks and temperatures; only its random numbers are ours."""
    predict = model(steps)
    story = ours(predict, BLANK, steps, schedule, "amused", 2.0)
    scheduler: Any = AmusedScheduler(MASK, schedule)
    scheduler.set_timesteps(steps, (2, 0))
    sample = torch.from_numpy(BLANK)[None]
    with drawing(np.random.default_rng(steps)), leading(story) as theirs:
        for timestep in timesteps(scheduler):
            logits = torch.from_numpy(predict(sample[0].numpy()))[None]
            sample = scheduler.step(logits, timestep, sample).prev_sample
    assert_right(compare(story, theirs))


def timesteps(scheduler: AmusedScheduler) -> list[int]:
    found: Any = scheduler.timesteps
    return [int(timestep) for timestep in found]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("side", [4, 8, 16])
def test_as_many_tokens_are_masked_as_amused_scheduler_masks(side: int, schedule: ScheduleName) -> None:
    """Where the exact count is whole, as at K = 12, float32 decides on both sides."""
    for steps in range(1, 41):
        scheduler = AmusedScheduler(MASK, schedule)
        scheduler.set_timesteps(steps)
        tokens = torch.full((1, side, side), MASK)
        unknown, counts, expected = side * side, [], []
        for done, timestep in enumerate(timesteps(scheduler)[:-1], 1):
            made: Any = scheduler.step(torch.zeros(1, 2, side, side), timestep, tokens)
            tokens = made.prev_sample
            unknown = Masks(schedule).count(side * side, unknown, done, steps)
            counts.append(unknown)
            expected.append(int((tokens == MASK).sum()))
        assert counts == expected, steps


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_content_is_masked_as_amused_scheduler_adds_noise(
    schedule: ScheduleName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What AmusedImg2ImgPipeline does before its first step: the share that is masked after the steps left out."""
    content = np.random.default_rng(5).integers(0, CODES, (SIDE, SIDE))
    uniform = np.random.default_rng(6).random((SIDE, SIDE))
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.from_numpy(uniform)[None])
    scheduler = AmusedScheduler(MASK, schedule)
    scheduler.set_timesteps(10)
    for behind in range(1, 10):
        noised = scheduler.add_noise(torch.from_numpy(content)[None], timesteps(scheduler)[behind - 1])
        found = masked(content, MASK, Masks(schedule).ratio(behind, 10), np.random.default_rng(6))
        np.testing.assert_array_equal(found, noised[0].numpy())


@given(STEPS, SEED, st.sampled_from(sorted(ANNEALS)), st.sampled_from(SCHEDULES), st.floats(0, 100))
@settings(max_examples=25, deadline=None)
def test_known_tokens_stay_and_unknown_ones_become_fewer(
    steps: int, seed: int, anneal: str, schedule: ScheduleName, tau: float
) -> None:
    start = partly_known(seed)
    asked, tokens = walk(model(), Canvas(start, MASK), steps, schedule, anneal, tau)
    known = start != MASK
    for one in (*(ask.sample for ask in asked), tokens):
        np.testing.assert_array_equal(one[known], start[known])
    counts = [int((ask.sample == MASK).sum()) for ask in asked]
    assert all(count > following or following == 1 for count, following in pairwise(counts))
    assert counts[-1] >= 1
    assert ((tokens >= 0) & (tokens < CODES)).all()


@given(STEPS, st.integers(0, 39), SEED)
@settings(max_examples=25, deadline=None)
def test_a_step_keeps_what_it_is_sure_of(steps: int, behind: int, seed: int) -> None:
    """What isn't masked again is what was drawn; a preview is that, whole."""
    asked, tokens = walk(model(seed), Canvas(BLANK, MASK, min(behind, steps - 1)), steps)
    assert [ask.step for ask in asked] == list(range(len(asked)))
    assert {ask.steps for ask in asked} == {len(asked)} == {steps - min(behind, steps - 1)}
    assert asked[0].denoised is None
    for ask in asked[1:]:
        assert ask.denoised is not None
        assert (ask.denoised < CODES).all()
        kept = ask.sample != MASK
        np.testing.assert_array_equal(ask.sample[kept], ask.denoised[kept])
    kept = asked[-1].sample != MASK
    np.testing.assert_array_equal(tokens[kept], asked[-1].sample[kept])


@given(STEPS)
def test_the_timestep_is_the_share_of_steps_to_come(steps: int) -> None:
    asked, _ = walk(model(), Canvas(BLANK, MASK), steps)
    assert [ask.timestep for ask in asked] == [(steps - 1 - k) / steps for k in range(steps)]
    assert all(0 <= ask.timestep < 1 for ask in asked)


def test_everything_known_is_what_comes_out() -> None:
    start = np.random.default_rng(0).integers(0, CODES, (SIDE, SIDE))
    asked, tokens = walk(model(), Canvas(start, MASK, 3), 7)
    assert len(asked) == 4
    np.testing.assert_array_equal(tokens, start)


def test_a_step_does_not_change_what_was_asked_before() -> None:
    start = BLANK.copy()
    seen: list[Codes] = []

    def predict(tokens: Codes) -> Logits:
        seen.append(tokens.copy())
        return model()(tokens)

    asked, _ = walk(predict, Canvas(start, MASK), 6)
    np.testing.assert_array_equal(start, BLANK)
    np.testing.assert_array_equal([ask.sample for ask in asked], seen)


@pytest.mark.parametrize("steps", [2, 12, 36])
def test_the_noise_is_annealed_to_none(steps: int) -> None:
    assert [ANNEALS["maskgit"](k, steps) for k in range(steps)] == pytest.approx(1 - np.arange(1, steps + 1) / steps)
    assert [ANNEALS["amused"](k, steps) for k in range(steps)] == pytest.approx(np.linspace(1, 0, steps))


# drawing

CODEBOOKS = [2, 3, 31, 32, 33, 64, 65, 100, 1000]


def first_beyond(weights: NDArray[np.float64], uniform: NDArray[np.float64]) -> Codes:
    """For each column the first row whose cumulative weight exceeds its share of the total."""
    ends = np.cumsum(weights, axis=0)
    found: Codes = np.argmax(ends > uniform * ends[-1], axis=0)
    return found


@pytest.mark.parametrize("codes", CODEBOOKS)
def test_a_token_is_the_first_whose_cumulative_probability_exceeds_the_number(codes: int) -> None:
    rng = np.random.default_rng(codes)
    logits = (3 * rng.standard_normal((codes, 500))).astype(np.float32)
    uniform, blank = rng.random(500), np.full(500, codes)
    drawn, certainty = draw(logits, blank, blank == codes, uniform)
    weights = np.exp(logits - logits.max(axis=0)).astype(np.float64)
    step = Step(blank, blank == codes, logits, drawn, np.zeros(500, np.bool_))
    expected = replace(step, drawn=first_beyond(weights, uniform))
    assert_right(compare_step(step, expected, Chance(uniform, np.zeros(500), 0.0)))
    probability = weights[drawn, np.arange(500)] / weights.sum(axis=0)
    np.testing.assert_allclose(certainty, np.log(probability), atol=1e-5)


@given(
    st.lists(st.sampled_from([0.0, -40.0]), min_size=2, max_size=3 * BLOCK),
    st.lists(st.integers(0, 1023), min_size=1, max_size=8),
)
@settings(deadline=None)
def test_where_the_number_is_a_boundary_the_token_after_it_is_drawn(logits: list[float], numbers: list[int]) -> None:
    """Ones and next to nothings, so that cumulative sums are whole: they are hit, at the ends of blocks, too."""
    ones = np.array(logits, np.float32)[:, None].repeat(len(numbers), axis=1)
    ones[0] = 0
    whole = (ones == 0).astype(np.float64)
    uniform = np.floor(np.array(numbers) / 1024 * whole[:, 0].sum()) / whole[:, 0].sum()
    drawn, _ = draw(ones, np.full(len(numbers), MASK), np.full(len(numbers), True), uniform)
    ends = np.cumsum(whole, axis=0)
    count = ends[drawn, np.arange(len(numbers))]
    assert (whole[drawn, np.arange(len(numbers))] == 1).all()
    np.testing.assert_array_equal(count, np.round(uniform * ends[-1]) + 1)


@pytest.mark.parametrize("codes", CODEBOOKS)
def test_the_largest_number_there_is_draws_a_token_that_is_there(codes: int) -> None:
    rng = np.random.default_rng(codes)
    logits = rng.standard_normal((codes, 200)).astype(np.float32)
    uniform, blank = np.full(200, np.nextafter(1.0, 0.0)), np.full(200, codes)
    drawn, _ = draw(logits, blank, blank == codes, uniform)
    np.testing.assert_array_equal(drawn, codes - 1)


def test_a_code_that_cannot_be_is_not_drawn() -> None:
    """By a number of 0, either."""
    logits = np.full((70, 3), -np.inf, np.float32)
    logits[[5, 40, 69], [0, 1, 2]] = 1
    drawn, certainty = draw(logits, np.full(3, MASK), np.full(3, True), np.zeros(3))
    np.testing.assert_array_equal(drawn, [5, 40, 69])
    np.testing.assert_array_equal(certainty, 0)


def test_known_tokens_are_certain_and_read_no_logits() -> None:
    logits = np.full((CODES, 2), np.nan, np.float32)
    logits[:, 1] = 0
    drawn, certainty = draw(logits, np.array([7, MASK]), np.array([False, True]), np.array([0.5, 0.5]))
    np.testing.assert_array_equal(drawn, [7, CODES // 2])
    np.testing.assert_allclose(certainty, [0, -np.log(CODES)], atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_tokens_come_as_often_as_they_should(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, n = rng.standard_normal(50).astype(np.float32), 40_000
    blank = np.full(n, MASK)
    drawn, _ = draw(np.repeat(logits[:, None], n, axis=1), blank, blank == MASK, rng.random(n))
    expected = np.exp(logits) / np.exp(logits).sum()
    found = np.bincount(drawn, minlength=50) / n
    assert np.abs(found - expected).max() < 5 * np.sqrt(expected.max() / n)

"""Where samplers start, and which timesteps they run; what they make of the answers is in tests/parity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from impasto_server.errors import InvalidArgument
from impasto_server.families.diffusion.samplers import SAMPLERS, SPREAD, Start
from impasto_server.families.diffusion.schedule import Noise, Schedule
from impasto_server.steps import Ask, run_steps

SPACINGS = ("leading", "linspace", "trailing")
ANEW = ("euler_a", "lcm")  # those that add noise of their own on their way
NOISE = np.random.default_rng(0).standard_normal((4, 4, 4)).astype(np.float32)
CLEAN = np.full((4, 4, 4), 3, np.float32)


def start(clean: NDArray[np.float32] | None = None, strength: float = 1.0) -> Start:
    return Start(NOISE, np.random.default_rng(1), clean, strength)


def schedule(spacing: Any) -> Schedule:
    return Schedule.of(
        Noise(
            num_train_timesteps=1000,
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="epsilon",
            timestep_spacing=spacing,
            steps_offset=1,
            set_alpha_to_one=False,
        )
    )


def walked(name: str, begun: Start, steps: int, spacing: str) -> tuple[list[Ask], NDArray[np.float32]]:
    """Every question, answered with the noise that is in it for sure."""
    sampler, asks = SAMPLERS[name](begun, steps, schedule(spacing)), list[Ask]()
    answer = None
    while True:
        try:
            asks.append(next(sampler) if answer is None else sampler.send(answer))
        except StopIteration as stop:
            return asks, stop.value
        alpha, sigma = schedule(spacing).levels(asks[-1].timestep)
        answer = NOISE if begun.clean is None else (asks[-1].sample - alpha * CLEAN) / sigma


@pytest.mark.parametrize(
    ("steps", "strength", "run"),
    [(30, 0.8, 24), (25, 1.0, 25), (10, 0.7, 7), (10, 0.79, 7), (10, 0.09, 0), (1, 1.0, 1), (1, 0.99, 0), (25, 0, 0)],
)
def test_run_steps(steps: int, strength: float, run: int) -> None:
    assert run_steps(steps, strength, cut=True) == run
    assert run_steps(steps, float(np.float32(strength)), cut=True) == run  # as it comes off the wire
    assert run_steps(steps, strength) == steps


@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - {*SPREAD}))
@pytest.mark.parametrize("spacing", ["leading", "trailing"])  # DDIM's linspace doesn't step to its next timestep
def test_content_comes_back_when_its_noise_is_known(name: str, spacing: str) -> None:
    """Also says that the timesteps run are the last of all of them, and that `steps` counts those."""
    everything, _ = walked(name, start(), 20, spacing)
    asks, latents = walked(name, start(CLEAN, 0.45), 20, spacing)
    assert [ask.timestep for ask in asks] == [ask.timestep for ask in everything[-9:]]
    assert [ask.step for ask in asks] == list(range(9))
    assert {ask.steps for ask in asks} == {9}
    for ask in asks[: 1 if name in ANEW else 9]:
        alpha, sigma = schedule(spacing).levels(ask.timestep)
        assert ask.sample == pytest.approx(alpha * CLEAN + sigma * NOISE, abs=1e-4)
    clean_enough = 0.1 if name == "ddim" else 1e-4  # DDIM ends at the first training timestep
    assert latents == pytest.approx(CLEAN, abs=clean_enough)


@pytest.mark.parametrize("name", SAMPLERS)
def test_strength_means_nothing_without_content(name: str) -> None:
    assert len(walked(name, start(strength=0.3), 10, "leading")[0]) == 10


@pytest.mark.parametrize("name", SAMPLERS)
def test_full_strength_still_starts_from_content(name: str) -> None:
    (pure, *_), (noised, *_) = (walked(name, begun, 5, "leading")[0] for begun in (start(), start(CLEAN)))
    assert noised.timestep == pure.timestep
    assert np.abs(noised.sample - pure.sample).max() > 0.1


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_as_many_timesteps_as_steps_noisiest_first(name: str, spacing: str) -> None:
    unlike = (61, 103, 121, 122, 200)  # diffusers' trailing has one too many for four of them
    for steps in (*range(1, 11), *(unlike if name != "lcm" else (49, 50))):
        timesteps = [ask.timestep for ask in walked(name, start(), steps, spacing)[0]]
        assert len(timesteps) == steps
        assert sorted({*timesteps}, reverse=True) == timesteps
        assert timesteps[-1] >= 0
        assert timesteps[0] < 1000


@pytest.mark.parametrize("name", ANEW)
def test_noise_on_the_way_comes_from_the_starts_draws(name: str) -> None:
    """In order, one for each step but the last, and other draws are another picture."""
    one, same, other = (walked(name, Start(NOISE, np.random.default_rng(seed)), 4, "trailing")[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.01
    drawn = np.random.default_rng(3)
    walked(name, Start(NOISE, drawn), 4, "trailing")
    expected = np.random.default_rng(3)
    for _ in range(3):
        expected.standard_normal(NOISE.shape, np.float32)
    assert drawn.standard_normal() == expected.standard_normal()


def test_lcm_has_no_more_steps_than_it_was_taught() -> None:
    assert len(walked("lcm", start(), 50, "leading")[0]) == 50
    with pytest.raises(InvalidArgument, match="^STEPS: 51 is more than lcm's 50 timesteps; pass at most 50"):
        walked("lcm", start(), 51, "leading")


@pytest.mark.parametrize(("steps", "strength"), [(4, 0.5), (8, 0.3), (1, 0.8), (7, 0.14)])
def test_lcm_spreads_its_steps_over_the_lower_part(steps: int, strength: float) -> None:
    """None is cut off: all are run, from the noise that the strength says."""
    asks, latents = walked("lcm", start(CLEAN, strength), steps, "leading")
    taught = range(19, 1000, 20)[: int(50 * strength)]
    assert asks[0].timestep == taught[-1]
    assert {ask.timestep for ask in asks} <= {*taught}
    assert [ask.steps for ask in asks] == [steps] * steps
    alpha, sigma = schedule("leading").levels(taught[-1])
    assert asks[0].sample == pytest.approx(alpha * CLEAN + sigma * NOISE, abs=1e-6)
    assert latents == pytest.approx(CLEAN, abs=1e-2)


@pytest.mark.parametrize(("steps", "strength", "least"), [(4, 0.05, 0.08), (29, 0.5, 0.581), (1, 0.0, 0.02)])
def test_lcm_asks_for_the_strength_that_its_steps_take(steps: int, strength: float, least: float) -> None:
    with pytest.raises(InvalidArgument, match=f"^STRENGTH: .* STEPS is {steps}; pass at least {least:g}, or fewer"):
        walked("lcm", start(CLEAN, strength), steps, "leading")
    assert len(walked("lcm", start(CLEAN, least), steps, "leading")[0]) == steps

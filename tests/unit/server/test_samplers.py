"""Where samplers start, and which timesteps they run; what they make of the answers is in tests/parity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from impasto_server.bundle import Noise
from impasto_server.samplers import SAMPLERS, Ask, Schedule, Start, run_steps

SPACINGS = ("leading", "linspace", "trailing")
NOISE = np.random.default_rng(0).standard_normal((4, 4, 4)).astype(np.float32)
CLEAN = np.full((4, 4, 4), 3, np.float32)


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


def walked(name: str, start: Start, steps: int, spacing: str) -> tuple[list[Ask], NDArray[np.float32]]:
    """Every question, answered with the noise that is in it for sure."""
    sampler, asks = SAMPLERS[name](start, steps, schedule(spacing)), list[Ask]()
    answer = None
    while True:
        try:
            asks.append(next(sampler) if answer is None else sampler.send(answer))
        except StopIteration as stop:
            return asks, stop.value
        answer = NOISE


@pytest.mark.parametrize(
    ("steps", "strength", "run"),
    [(30, 0.8, 24), (25, 1.0, 25), (10, 0.7, 7), (10, 0.79, 7), (10, 0.09, 0), (1, 1.0, 1), (1, 0.99, 0), (25, 0, 0)],
)
def test_run_steps(steps: int, strength: float, run: int) -> None:
    assert run_steps(steps, strength) == run
    assert run_steps(steps, float(np.float32(strength))) == run  # as it comes off the wire


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])  # DDIM's linspace doesn't step to its next timestep
def test_content_comes_back_when_its_noise_is_known(name: str, spacing: str) -> None:
    """Also says that the timesteps run are the last of all of them, and that `steps` counts those."""
    everything, _ = walked(name, Start(NOISE), 20, spacing)
    asks, latents = walked(name, Start(NOISE, CLEAN, 0.45), 20, spacing)
    assert [ask.timestep for ask in asks] == [ask.timestep for ask in everything[-9:]]
    assert [ask.step for ask in asks] == list(range(9))
    assert {ask.steps for ask in asks} == {9}
    for ask in asks:
        alpha, sigma = schedule(spacing).levels(ask.timestep)
        assert ask.sample == pytest.approx(alpha * CLEAN + sigma * NOISE, abs=1e-4)
    clean_enough = 0.1 if name == "ddim" else 1e-4  # DDIM ends at the first training timestep
    assert latents == pytest.approx(CLEAN, abs=clean_enough)


@pytest.mark.parametrize("name", SAMPLERS)
def test_strength_means_nothing_without_content(name: str) -> None:
    assert len(walked(name, Start(NOISE, strength=0.3), 10, "leading")[0]) == 10


@pytest.mark.parametrize("name", SAMPLERS)
def test_full_strength_still_starts_from_content(name: str) -> None:
    (pure, *_), (noised, *_) = (walked(name, start, 5, "leading")[0] for start in (Start(NOISE), Start(NOISE, CLEAN)))
    assert noised.timestep == pure.timestep
    assert np.abs(noised.sample - pure.sample).max() > 0.1


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_as_many_timesteps_as_steps_noisiest_first(name: str, spacing: str) -> None:
    for steps in (*range(1, 11), 61, 103, 121, 122, 200):  # of which diffusers' trailing has one too many for four
        timesteps = [ask.timestep for ask in walked(name, Start(NOISE), steps, spacing)[0]]
        assert len(timesteps) == steps
        assert sorted({*timesteps}, reverse=True) == timesteps
        assert timesteps[-1] >= 0
        assert timesteps[0] < 1000

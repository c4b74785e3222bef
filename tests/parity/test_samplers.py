"""Every sampler walks diffusers' trajectory of the same name, with a model that depends on sample and timestep."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from numpy.typing import NDArray

from impasto_server.bundle import Noise
from impasto_server.samplers import SAMPLERS, Schedule

THEIRS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}
RELATIVE_TOLERANCE = 1e-4


def model(sample: NDArray[np.float32], timestep: float) -> NDArray[np.float32]:
    """A smooth stand-in for a backbone."""
    mixed: NDArray[np.float32] = np.tanh(0.7 * sample + 0.3 * np.roll(sample, 1, axis=-1) - np.float32(timestep / 1000))
    return mixed


def ours(name: str, noise: NDArray[np.float32], steps: int, facts: Noise) -> NDArray[np.float32]:
    sampler = SAMPLERS[name](noise, steps, Schedule.of(facts))
    ask = next(sampler)
    while True:
        try:
            ask = sampler.send(model(ask.sample, ask.timestep))
        except StopIteration as stop:
            result: NDArray[np.float32] = stop.value
            return result


def theirs(name: str, noise: NDArray[np.float32], steps: int, facts: Noise) -> NDArray[np.float32]:
    config = {**facts.model_dump(), "clip_sample": False}
    scheduler = THEIRS[name].from_config(config)
    scheduler.set_timesteps(steps)
    x = torch.from_numpy(noise)[None] * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        output = model(scheduler.scale_model_input(x, t).numpy()[0], float(t))
        x = scheduler.step(torch.from_numpy(output)[None], t, x).prev_sample
    result: NDArray[np.float32] = x.numpy()[0]
    return result


@pytest.mark.parametrize(
    ("name", "prediction", "spacing", "steps"),
    list(product(THEIRS, ("epsilon", "v_prediction"), ("leading", "linspace", "trailing"), (1, 2, 7, 25, 50))),
)
def test_trajectory_equals_diffusers(name: str, prediction: Any, spacing: Any, steps: int) -> None:
    facts = Noise(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        timestep_spacing=spacing,
        steps_offset=1,
        set_alpha_to_one=False,
    )
    noise = np.random.default_rng(3).standard_normal((4, 8, 8)).astype(np.float32)
    expected = theirs(name, noise, steps, facts)
    error = np.abs(ours(name, noise, steps, facts) - expected).max() / np.abs(expected).max()
    assert error <= RELATIVE_TOLERANCE

"""Every sampler walks diffusers' trajectory of the same name, with a model that depends on sample and timestep.

Those that add noise on their way are handed the same one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)
from numpy.typing import NDArray

from impasto_server.errors import InvalidArgument
from impasto_server.families.diffusion.samplers import SAMPLERS, Start
from impasto_server.families.diffusion.schedule import Noise, Schedule

THEIRS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler_a": EulerAncestralDiscreteScheduler,
    "lcm": LCMScheduler,
    "unipc": UniPCMultistepScheduler,
}
RELATIVE_TOLERANCE = 1e-5
AT_ZERO = 2e-5  # of pictures that start at timestep 0, where diffusers' 1 - ᾱ is that far off in float32
DRAWS = np.random.default_rng()  # each side gets its own, alike


def model(sample: NDArray[np.float32], timestep: float) -> NDArray[np.float32]:
    """A smooth stand-in for a backbone."""
    mixed: NDArray[np.float32] = np.tanh(0.7 * sample + 0.3 * np.roll(sample, 1, axis=-1) - np.float32(timestep / 1000))
    return mixed


def gaussian(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((4, 8, 8)).astype(np.float32)


def facts(prediction: Any, spacing: Any) -> Noise:
    return Noise(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        timestep_spacing=spacing,
        steps_offset=1,
        set_alpha_to_one=False,
    )


def ours(name: str, start: Start, steps: int, noise: Noise) -> tuple[list[float], NDArray[np.float32]]:
    """The timesteps that were asked for, and the latents."""
    sampler = SAMPLERS[name](start, steps, Schedule.of(noise))
    ask, asked = next(sampler), list[float]()
    while True:
        assert ask.step == len(asked)
        asked.append(ask.timestep)
        assert (ask.denoised is None) == (ask.step == 0)
        try:
            ask = sampler.send(model(ask.sample, ask.timestep))
        except StopIteration as stop:
            assert len(asked) == ask.steps
            return asked, stop.value


def theirs(name: str, start: Start, steps: int, noise: Noise) -> tuple[list[float], NDArray[np.float32]]:
    """What diffusers' text-to-image and image-to-image pipelines do with the scheduler.

    Those of latent consistency models hand it the strength; the others leave out the first of its timesteps.
    """
    scheduler = THEIRS[name].from_config({**noise.model_dump(), "clip_sample": False})
    scheduler.set_timesteps(
        steps, **({"strength": start.strength} if name == "lcm" and start.clean is not None else {})
    )
    timesteps, x = scheduler.timesteps, torch.from_numpy(start.noise)[None]
    if start.clean is None:
        x = x * scheduler.init_noise_sigma
    elif name == "lcm":
        x = scheduler.add_noise(torch.from_numpy(start.clean)[None], x, timesteps[:1])
    else:
        first = max(steps - min(int(steps * start.strength), steps), 0)
        timesteps = timesteps[first:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        x = scheduler.add_noise(torch.from_numpy(start.clean)[None], x, timesteps[:1])
    with patch.dict(vars(sys.modules[THEIRS[name].__module__]), randn_tensor=drawing(start)):
        for t in timesteps:
            output = model(scheduler.scale_model_input(x, t).numpy()[0], float(t))
            x = scheduler.step(torch.from_numpy(output)[None], t, x).prev_sample
    return timesteps.tolist(), x.numpy()[0]


def drawing(start: Start) -> Callable[..., torch.Tensor]:
    """diffusers' source of noise, where it has one: `start`'s draws."""
    return lambda *args, **kwargs: torch.from_numpy(start.fresh())[None]


def compare(name: str, start: Start, steps: int, noise: Noise) -> None:
    (asked, latents), (expected_asked, expected) = (
        walk(name, replace(start, draws=np.random.default_rng(5)), steps, noise) for walk in (ours, theirs)
    )
    assert asked == pytest.approx(expected_asked, rel=1e-6)
    tolerance = RELATIVE_TOLERANCE if asked[0] else AT_ZERO
    assert np.abs(latents - expected).max() / np.abs(expected).max() <= tolerance


@pytest.mark.parametrize(
    ("name", "prediction", "spacing", "steps"),
    list(product(THEIRS, ("epsilon", "v_prediction"), ("leading", "linspace", "trailing"), (1, 2, 7, 25, 50))),
)
def test_trajectory_equals_diffusers(name: str, prediction: Any, spacing: Any, steps: int) -> None:
    compare(name, Start(gaussian(3), DRAWS), steps, facts(prediction, spacing))


@pytest.mark.parametrize(
    ("name", "prediction", "spacing", "steps", "strength"),
    list(
        product(
            THEIRS,
            ("epsilon", "v_prediction"),
            ("leading", "linspace", "trailing"),
            (4, 7, 25, 50),
            (0.3, 0.8, 1.0),
        )
    ),
)
def test_trajectory_from_content_equals_diffusers(
    name: str, prediction: Any, spacing: Any, steps: int, strength: float
) -> None:
    start, noise = Start(gaussian(3), DRAWS, 0.5 * gaussian(4), strength), facts(prediction, spacing)
    if name == "lcm" and steps > 50 * strength:  # more than the part of what was taught
        with pytest.raises(ValueError, match="is smaller than `num_inference_steps`"):
            theirs(name, start, steps, noise)
        with pytest.raises(InvalidArgument, match="^STRENGTH: "):
            ours(name, start, steps, noise)
    else:
        compare(name, start, steps, noise)

"""Samplers as generators: each asks for a model output, is sent one, and finally returns the latents.

    steps = ddim(noise, 25, schedule)
    ask = next(steps)                    # what the backbone must be run on
    ask = steps.send(model_output)       # ... until StopIteration carries the latents

A sampler doesn't know which guidance made the output it is sent, nor who else is in the batch; dropping the generator
cancels it. Its history (a multistep solver's last prediction) is a local variable.

Coefficients are float64, latents float32 [C, h, w]. alpha and sigma are a timestep's signal and noise levels,
x_t = alpha·x_0 + sigma·eps with alpha² + sigma² = 1. The steps are diffusers' of the same names, timestep for timestep.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.bundle import Noise

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Ask:
    """What a sampler needs next: the model's output for `sample` [C, h, w] at the training timestep `timestep`.

    `step` counts from 0 to `steps` - 1. `denoised` [C, h, w] is what the sampler takes the clean latents to be, None
    before the first answer.
    """

    sample: Array
    timestep: float
    step: int
    steps: int
    denoised: Array | None = None


Steps = Generator[Ask, Array, Array]
Sampler = Callable[[Array, int, "Schedule"], Steps]


@dataclass(frozen=True)
class Schedule:
    """The noise schedule a backbone was trained with: ᾱ_t for every training timestep [T], and how to walk it."""

    alphas_cumprod: NDArray[np.float64]
    noise: Noise

    @classmethod
    def of(cls, noise: Noise) -> Schedule:
        power = 0.5 if noise.beta_schedule == "scaled_linear" else 1.0
        betas = np.linspace(noise.beta_start**power, noise.beta_end**power, noise.num_train_timesteps) ** (1 / power)
        return cls(np.cumprod(1 - betas), noise)

    def levels(self, timestep: float) -> tuple[float, float]:
        """(alpha, sigma) at a training timestep; between two, sigma / alpha is interpolated."""
        below = int(timestep)
        cumulative = float(self.alphas_cumprod[below])
        if timestep != below:
            near = self.alphas_cumprod[below : below + 2]
            ratio = np.interp(timestep - below, [0, 1], np.sqrt((1 - near) / near))
            cumulative = float(1 / (1 + ratio**2))
        return sqrt(cumulative), sqrt(1 - cumulative)

    def timesteps(self, steps: int) -> list[int]:
        """`steps` training timesteps, noisiest first (Table 2 of arXiv 2305.08891)."""
        total = self.noise.num_train_timesteps
        match self.noise.timestep_spacing:
            case "leading":
                return [i * (total // steps) + self.noise.steps_offset for i in reversed(range(steps))]
            case "linspace":
                return [int(t) for t in np.linspace(0, total - 1, steps).round()[::-1]]
            case "trailing":
                return [int(t) for t in np.arange(total, 0, -total / steps).round() - 1]

    def denoised(self, output: Array, sample: Array, alpha: float, sigma: float) -> Array:
        """x_0 from the model's output at x_t = `sample`, whichever of eps and v (arXiv 2202.00512) it predicts."""
        if self.noise.prediction_type == "epsilon":
            return _f32((sample - sigma * output) / alpha)
        return _f32(alpha * sample - sigma * output)


def ddim(noise: Array, steps: int, schedule: Schedule) -> Steps:
    """Deterministic DDIM, Eq. 12 of arXiv 2010.02502 with eta = 0."""
    x, x0 = noise, None
    jump = schedule.noise.num_train_timesteps // steps
    for i, t in enumerate(schedule.timesteps(steps)):
        output = yield Ask(x, t, i, steps, x0)
        alpha, sigma = schedule.levels(t)
        x0 = schedule.denoised(output, x, alpha, sigma)
        eps = (x - alpha * x0) / sigma
        if t - jump >= 0:
            alpha_next, sigma_next = schedule.levels(t - jump)
        else:
            alpha_next, sigma_next = (1.0, 0.0) if schedule.noise.set_alpha_to_one else schedule.levels(0)
        x = _f32(alpha_next * x0 + sigma_next * eps)
    return x


def euler(noise: Array, steps: int, schedule: Schedule) -> Steps:
    """Euler's method on the probability flow ODE, Algorithm 2 of arXiv 2206.00364 without churn."""
    timesteps = _euler_timesteps(steps, schedule)
    levels = [schedule.levels(t) for t in timesteps]
    ratios = [sigma / alpha for alpha, sigma in levels] + [0.0]
    first = ratios[0] if schedule.noise.timestep_spacing in ("linspace", "trailing") else sqrt(ratios[0] ** 2 + 1)
    x, x0 = _f32(noise * first), None
    for i, (t, (alpha, sigma)) in enumerate(zip(timesteps, levels, strict=True)):
        sample = _f32(x * alpha)
        output = yield Ask(sample, t, i, steps, x0)
        x0 = schedule.denoised(output, sample, alpha, sigma)
        x = _f32(x + (x - x0) / ratios[i] * (ratios[i + 1] - ratios[i]))
    return x


def dpmpp_2m(noise: Array, steps: int, schedule: Schedule) -> Steps:
    """DPM-Solver++(2M), Algorithm 2 of arXiv 2211.01095: two-step multistep midpoint, first order at both ends."""
    timesteps = _solver_timesteps(steps, schedule)
    levels = [schedule.levels(t) for t in timesteps] + [(1.0, 0.0)]
    x, before = noise, None
    for i, t in enumerate(timesteps):
        output = yield Ask(x, t, i, steps, before)
        alpha, sigma = levels[i]
        alpha_next, sigma_next = levels[i + 1]
        x0 = schedule.denoised(output, x, alpha, sigma)
        if i == steps - 1:
            return x0
        gain = _log_snr(levels[i + 1]) - _log_snr(levels[i])
        direction = x0
        if before is not None:
            ratio = (_log_snr(levels[i]) - _log_snr(levels[i - 1])) / gain
            direction = _f32(x0 + (x0 - before) / (2 * ratio))
        x = _f32((sigma_next / sigma) * x - alpha_next * np.expm1(-gain) * direction)
        before = x0
    return x


SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "dpmpp_2m": dpmpp_2m, "euler": euler}


def _euler_timesteps(steps: int, schedule: Schedule) -> Sequence[float]:
    """Euler's linspace goes between the training timesteps, where the others' is rounded to them."""
    if schedule.noise.timestep_spacing == "linspace":
        return [float(t) for t in np.linspace(0, schedule.noise.num_train_timesteps - 1, steps)[::-1]]
    return schedule.timesteps(steps)


def _solver_timesteps(steps: int, schedule: Schedule) -> list[int]:
    """The solver leaves out the cleanest of steps + 1 timesteps, where the others leave out none."""
    total, spacing = schedule.noise.num_train_timesteps, schedule.noise.timestep_spacing
    if spacing == "leading":
        return [i * (total // (steps + 1)) + schedule.noise.steps_offset for i in range(steps, 0, -1)]
    if spacing == "linspace":
        return [int(t) for t in np.linspace(0, total - 1, steps + 1).round()[:0:-1]]
    return schedule.timesteps(steps)


def _log_snr(level: tuple[float, float]) -> float:
    alpha, sigma = level
    return log(alpha) - log(sigma)


def _f32(x: NDArray[Any]) -> Array:
    return x.astype(np.float32, copy=False)

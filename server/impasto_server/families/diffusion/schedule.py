"""The noise schedule that a backbone was trained with: the noise at each timestep, and the timesteps to run.

alpha and sigma are a timestep's signal and noise levels, x_t = alpha·x_0 + sigma·eps with alpha² + sigma² = 1, float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from impasto_server.bundle import Frozen

Array = NDArray[np.float32]
Level = tuple[float, float]


class Noise(Frozen):
    """The facts of a noise schedule, in diffusers' terms; the last two are for consistency models."""

    num_train_timesteps: int
    beta_start: float
    beta_end: float
    beta_schedule: Literal["linear", "scaled_linear"]
    prediction_type: Literal["epsilon", "v_prediction"]
    timestep_spacing: Literal["leading", "linspace", "trailing"]
    steps_offset: int
    set_alpha_to_one: bool
    original_inference_steps: int = Field(default=50, gt=0)
    timestep_scaling: float = 10.0


@dataclass(frozen=True)
class Schedule:
    """A noise schedule: ᾱ_t for every training timestep [T], and the facts in `noise`."""

    alphas_cumprod: NDArray[np.float64]
    noise: Noise

    @classmethod
    def of(cls, noise: Noise) -> Schedule:
        power = 0.5 if noise.beta_schedule == "scaled_linear" else 1.0
        betas = np.linspace(noise.beta_start**power, noise.beta_end**power, noise.num_train_timesteps) ** (1 / power)
        return cls(np.cumprod(1 - betas), noise)

    def levels(self, timestep: float) -> Level:
        """(alpha, sigma) at a timestep; between two training timesteps sigma / alpha is interpolated."""
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
                # Rounding errors make an arange of 61 steps one longer.
                return [int(t) for t in np.arange(total, 0, -total / steps)[:steps].round() - 1]

    def denoised(self, output: Array, sample: Array, alpha: float, sigma: float) -> Array:
        """x_0 from the model's output at x_t = `sample`, whether it predicts eps or v (arXiv 2202.00512)."""
        if self.noise.prediction_type == "epsilon":
            return f32((sample - sigma * output) / alpha)
        return f32(alpha * sample - sigma * output)


def f32(x: NDArray[np.generic]) -> Array:
    return x.astype(np.float32, copy=False)

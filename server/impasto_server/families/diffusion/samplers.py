"""Samplers of latents, such as `ddim(Start(noise, draws), 25, schedule)`; steps.py says what a sampler is.

A sampler starts from noise, or from content: clean latents are noised to a later timestep, and it goes on from there
(SDEdit, arXiv 2108.01073).

Noise that a sampler adds on its way comes from the start's `draws`, after the initial noise. So the seed alone
determines it, whatever other requests do.

Coefficients are float64, latents float32 [C, h, w]. alpha and sigma are a timestep's signal and noise levels,
x_t = alpha·x_0 + sigma·eps with alpha² + sigma² = 1. The steps equal those of diffusers' schedulers of the same names,
timestep for timestep, with and without content.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, expm1, log, sqrt

import numpy as np
from numpy.typing import NDArray

from impasto_server.errors import InvalidArgument
from impasto_server.families.diffusion.schedule import Level, Schedule, f32
from impasto_server.steps import Ask, Steps, run_steps

Array = NDArray[np.float32]

BOUNDARY = 0.5  # the data's standard deviation, as assumed by consistency models (arXiv 2303.01469, appendix C)


@dataclass(frozen=True)
class Start:
    """What a sampler begins with: `noise` [C, h, w], unit Gaussian, and the `clean` latents [C, h, w] of any content.

    With `clean`, a sampler runs the last `run_steps(steps, strength, cut=True)` of its timesteps; one of SPREAD runs
    all its steps over the lower `strength` of the timesteps that it chooses from. Without `clean`, all steps are run.
    """

    noise: Array
    draws: np.random.Generator
    clean: Array | None = None
    strength: float = 1.0

    def fresh(self) -> Array:
        """Fresh noise [C, h, w] at each call."""
        return self.draws.standard_normal(self.noise.shape, np.float32)


Sampler = Callable[[Start, int, Schedule], Steps]


def ddim(start: Start, steps: int, schedule: Schedule) -> Steps:
    """Deterministic DDIM, Eq. 12 of arXiv 2010.02502 with eta = 0."""
    timesteps, x = _begin(start, schedule.timesteps(steps), schedule)
    x0 = None
    jump = schedule.noise.num_train_timesteps // steps
    for i, t in enumerate(timesteps):
        output = yield Ask(x, t, i, len(timesteps), x0)
        alpha, sigma = schedule.levels(t)
        x0 = schedule.denoised(output, x, alpha, sigma)
        eps = (x - alpha * x0) / sigma
        if t - jump >= 0:
            alpha_next, sigma_next = schedule.levels(t - jump)
        else:
            alpha_next, sigma_next = (1.0, 0.0) if schedule.noise.set_alpha_to_one else schedule.levels(0)
        x = f32(alpha_next * x0 + sigma_next * eps)
    return x


def euler(start: Start, steps: int, schedule: Schedule) -> Steps:
    """Euler's method on the probability flow ODE, Algorithm 2 of arXiv 2206.00364 without churn."""
    return _euler(start, steps, schedule, lambda now, then: then)


def euler_a(start: Start, steps: int, schedule: Schedule) -> Steps:
    """Ancestral sampling (arXiv 2006.11239) by Euler's method: a step below the next ratio, then noise up to it."""
    return _euler(start, steps, schedule, lambda now, then: then**2 / now)


def _euler(start: Start, steps: int, schedule: Schedule, down: Callable[[float, float], float]) -> Steps:
    """Euler's method. `down(now, then)` is the ratio sigma / alpha that a step goes to, from those of its two ends."""
    timesteps, sample = _begin(start, _euler_timesteps(steps, schedule), schedule)
    levels = [schedule.levels(t) for t in timesteps]
    ratios = [sigma / alpha for alpha, sigma in levels] + [0.0]
    first = 1 / levels[0][0]
    if start.clean is None and schedule.noise.timestep_spacing in ("linspace", "trailing"):
        first = ratios[0]
    x, x0 = f32(sample * first), None
    for i, (t, (alpha, sigma)) in enumerate(zip(timesteps, levels, strict=True)):
        sample = f32(x * alpha)
        output = yield Ask(sample, t, i, len(timesteps), x0)
        x0 = schedule.denoised(output, sample, alpha, sigma)
        now, then = ratios[i : i + 2]
        below = down(now, then)
        x = f32(x + (x - x0) / now * (below - now))
        if below < then:
            x = f32(x + sqrt(then**2 - below**2) * start.fresh())
    return x


def lcm(start: Start, steps: int, schedule: Schedule) -> Steps:
    """Multistep consistency sampling, Algorithm 3 of arXiv 2310.04378: to the clean sample, then noised again.

    Its timesteps are some of the `original_inference_steps` that the model was trained on; with content, of the lower
    `strength` of these. Raises InvalidArgument where those are fewer than `steps`.
    """
    strength = 1.0 if start.clean is None else start.strength
    timesteps = _lcm_timesteps(steps, strength, schedule)
    x = start.noise if start.clean is None else _noised(start, timesteps[0], schedule)
    clean = None
    for i, t in enumerate(timesteps):
        output = yield Ask(x, t, i, len(timesteps), clean)
        skip, out = _boundary(t * schedule.noise.timestep_scaling)
        clean = f32(skip * x + out * schedule.denoised(output, x, *schedule.levels(t)))
        if i + 1 < len(timesteps):
            alpha, sigma = schedule.levels(timesteps[i + 1])
            x = f32(alpha * clean + sigma * start.fresh())
    assert clean is not None, "whoever starts a sampler has checked that there is a step to run"
    return clean


def dpmpp_2m(start: Start, steps: int, schedule: Schedule) -> Steps:
    """DPM-Solver++(2M), Algorithm 2 of arXiv 2211.01095: two-step multistep midpoint, of first order at both ends."""
    timesteps, x = _begin(start, _solver_timesteps(steps, schedule), schedule)
    levels = [schedule.levels(t) for t in timesteps]
    x0s: list[Array] = []
    for i, t in enumerate(timesteps):
        output = yield Ask(x, t, i, len(timesteps), x0s[-1] if x0s else None)
        x0s = [*x0s[-1:], schedule.denoised(output, x, *levels[i])]
        if i + 1 < len(timesteps):
            x = _advance(x, _ahead(x0s, levels[: i + 2]), *levels[i : i + 2])
    return x0s[-1]


def unipc(start: Start, steps: int, schedule: Schedule) -> Steps:
    """UniPC of order 2 on x_0 with B(h) = e^h - 1, arXiv 2302.04867: UniP is DPM-Solver++(2M), UniC corrects it."""
    timesteps, x = _begin(start, _solver_timesteps(steps, schedule), schedule)
    levels = [schedule.levels(t) for t in timesteps]
    corrected = x
    x0s: list[Array] = []
    for i, t in enumerate(timesteps):
        output = yield Ask(x, t, i, len(timesteps), x0s[-1] if x0s else None)
        x0s = [*x0s[-2:], schedule.denoised(output, x, *levels[i])]
        if i > 0:
            corrected = _advance(corrected, _behind(x0s, levels[: i + 1]), *levels[i - 1 : i + 1])
        if i + 1 < len(timesteps):
            x = _advance(corrected, _ahead(x0s, levels[: i + 2]), *levels[i : i + 2])
    return x0s[-1]


SAMPLERS: dict[str, Sampler] = {
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
    "euler": euler,
    "euler_a": euler_a,
    "lcm": lcm,
    "unipc": unipc,
}
# The samplers that run all their steps at a strength below 1, too.
SPREAD = ("lcm",)


def _begin(start: Start, timesteps: Sequence[float], schedule: Schedule) -> tuple[Sequence[float], Array]:
    """The timesteps to run, and the sample [C, h, w] at the first of them."""
    if start.clean is None:
        return timesteps, start.noise
    run = run_steps(len(timesteps), start.strength, cut=True)
    assert run > 0, "whoever starts a sampler has checked that there is a step to run"
    return timesteps[-run:], _noised(start, timesteps[-run], schedule)


def _noised(start: Start, timestep: float, schedule: Schedule) -> Array:
    """The content [C, h, w] with the noise of `timestep`."""
    assert start.clean is not None
    alpha, sigma = schedule.levels(timestep)
    return f32(alpha * start.clean + sigma * start.noise)


def _euler_timesteps(steps: int, schedule: Schedule) -> Sequence[float]:
    """Euler's timesteps. With linspace they lie between the training timesteps; others round to these."""
    if schedule.noise.timestep_spacing == "linspace":
        return [float(t) for t in np.linspace(0, schedule.noise.num_train_timesteps - 1, steps)[::-1]]
    return schedule.timesteps(steps)


def _solver_timesteps(steps: int, schedule: Schedule) -> list[int]:
    """The solvers' timesteps: steps + 1 timesteps without the cleanest, except with trailing."""
    total, spacing = schedule.noise.num_train_timesteps, schedule.noise.timestep_spacing
    if spacing == "leading":
        return [i * (total // (steps + 1)) + schedule.noise.steps_offset for i in range(steps, 0, -1)]
    if spacing == "linspace":
        return [int(t) for t in np.linspace(0, total - 1, steps + 1).round()[:0:-1]]
    return schedule.timesteps(steps)


def _lcm_timesteps(steps: int, strength: float, schedule: Schedule) -> list[int]:
    """Timesteps spaced evenly over the lower `strength` of those that the model was trained on."""
    taught = schedule.noise.original_inference_steps
    if steps > taught:
        raise InvalidArgument("STEPS", f"{steps} is more than lcm's {taught} timesteps", f"pass at most {taught}")
    lower = run_steps(taught, strength, cut=True)
    if steps > lower:
        problem = f"{strength:g} of lcm's {taught} timesteps is {lower}, but STEPS is {steps}"
        enough = (one / 1000 for one in range(ceil(1000 * steps / taught), 1001))
        least = next(share for share in enough if run_steps(taught, share, cut=True) >= steps)
        raise InvalidArgument("STRENGTH", problem, f"pass at least {least:g}, or fewer STEPS")
    jump = schedule.noise.num_train_timesteps // taught
    return [(lower - int(i)) * jump - 1 for i in np.linspace(0, lower, steps, endpoint=False)]


def _boundary(timestep: float) -> tuple[float, float]:
    """A consistency model's weights of its sample and of the answer: 1 and 0 at timestep 0."""
    return BOUNDARY**2 / (timestep**2 + BOUNDARY**2), timestep / sqrt(timestep**2 + BOUNDARY**2)


def _advance(x: Array, x0: Array, now: Level, then: Level) -> Array:
    """A step from one level to the next, given the mean `x0` of x_0 between them (Proposition 4.1 of arXiv 2211.01095).

    The mean is over the log SNR λ, with weights e^λ.
    """
    return f32((then[1] / now[1]) * x - then[0] * np.expm1(_log_snr(now) - _log_snr(then)) * x0)


def _ahead(x0s: Sequence[Array], levels: Sequence[Level]) -> Array:
    """The mean of x_0 between the last two levels, where x_0 is known only at the first (UniP, Corollary 3.2).

    It extends the line through the last two of `x0s` and takes its middle as the mean.
    """
    if len(x0s) == 1:
        return x0s[-1]
    before, now, then = (_log_snr(level) for level in levels[-3:])
    return f32(x0s[-1] + (x0s[-1] - x0s[-2]) / (2 * (now - before) / (then - now)))


def _behind(x0s: Sequence[Array], levels: Sequence[Level]) -> Array:
    """The mean of x_0 between the last two levels, where x_0 is known at both (UniC, Theorem 3.1).

    It is the mean of a parabola through the last three of `x0s`, in a variable u that is 0 and 1 at these levels; of
    two it is the middle.
    """
    *earlier, x0, x1 = x0s
    if not earlier:
        return f32(x0 + (x1 - x0) / 2)
    before, now, then = (_log_snr(level) for level in levels[-3:])
    h = then - now
    u = (before - now) / h
    mean_u = -1 / h - 1 / expm1(-h)
    mean_uu = 2 / h**2 + (2 / h - 1) / expm1(-h)
    earlier_weight = (mean_u - mean_uu) / (u - u * u)
    return f32(x0 + earlier_weight * (earlier[0] - x0) + (mean_u - earlier_weight * u) * (x1 - x0))


def _log_snr(level: Level) -> float:
    alpha, sigma = level
    return log(alpha) - log(sigma)

"""Samplers of latents (steps.py says what a sampler is): `ddim(Start(noise), 25, schedule)` and its like.

A sampler starts from noise, or from content: clean latents that are noised to a timestep further down, from where it
goes on as ever (SDEdit, arXiv 2108.01073).

What noise a sampler adds on its way comes from the start's `draws`, behind the noise that it starts from: the seed
alone decides, and nobody's step takes of another's.

Coefficients are float64, latents float32 [C, h, w]. alpha and sigma are a timestep's signal and noise levels,
x_t = alpha·x_0 + sigma·eps with alpha² + sigma² = 1. The steps are diffusers' of the same names, timestep for timestep,
with and without content.
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

BOUNDARY = 0.5  # the standard deviation of the data, as consistency models have it (arXiv 2303.01469, appendix C)


@dataclass(frozen=True)
class Start:
    """What a sampler begins with: `noise` [C, h, w], unit Gaussian, and the `clean` latents [C, h, w] of the content.

    With `clean`, a sampler runs the last `run_steps(steps, strength, cut=True)` of its timesteps, and one of SPREAD
    all of its steps over the lower `strength` of what it would choose from. Without it they run all of them.
    """

    noise: Array
    draws: np.random.Generator
    clean: Array | None = None
    strength: float = 1.0

    def fresh(self) -> Array:
        """More noise [C, h, w], of its own at each call."""
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
    """Ancestral sampling (arXiv 2006.11239) by Euler's method: to below the next ratio, then noise up to it."""
    return _euler(start, steps, schedule, lambda now, then: then**2 / now)


def _euler(start: Start, steps: int, schedule: Schedule, down: Callable[[float, float], float]) -> Steps:
    """`down` is the ratio sigma / alpha that a step goes to, from that of now and that of then."""
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
    """Multistep consistency sampling, Algorithm 3 of arXiv 2310.04378: to the clean sample, and to new noise of it.

    Of the `original_inference_steps` that the model was taught on, and of these from content the lower `strength`.
    Raises InvalidArgument where those are fewer.
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
    """DPM-Solver++(2M), Algorithm 2 of arXiv 2211.01095: two-step multistep midpoint, first order at both ends."""
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
    """UniPC of order 2 on x_0 with B(h) = e^h - 1, arXiv 2302.04867: UniP is DPM-Solver++(2M), UniC looks back."""
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
# Those whose steps a strength below 1 doesn't cut off.
SPREAD = ("lcm",)


def _begin(start: Start, timesteps: Sequence[float], schedule: Schedule) -> tuple[Sequence[float], Array]:
    """The timesteps to run, and the sample [C, h, w] at the first of them."""
    if start.clean is None:
        return timesteps, start.noise
    run = run_steps(len(timesteps), start.strength, cut=True)
    assert run > 0, "whoever starts a sampler has checked that there is a step to run"
    return timesteps[-run:], _noised(start, timesteps[-run], schedule)


def _noised(start: Start, timestep: float, schedule: Schedule) -> Array:
    """The content with as much noise as there is at `timestep`, [C, h, w]."""
    assert start.clean is not None
    alpha, sigma = schedule.levels(timestep)
    return f32(alpha * start.clean + sigma * start.noise)


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


def _lcm_timesteps(steps: int, strength: float, schedule: Schedule) -> list[int]:
    """Evenly among the lower `strength` of those that the model was taught on, which are evenly among all."""
    taught = schedule.noise.original_inference_steps
    if steps > taught:
        raise InvalidArgument("STEPS", f"{steps}, and lcm has {taught} to choose from", f"pass at most {taught}")
    lower = run_steps(taught, strength, cut=True)
    if steps > lower:
        problem = f"{strength:g} of the {taught} that lcm has to choose from is {lower}, and STEPS {steps}"
        enough = (one / 1000 for one in range(ceil(1000 * steps / taught), 1001))
        least = next(share for share in enough if run_steps(taught, share, cut=True) >= steps)
        raise InvalidArgument("STRENGTH", problem, f"pass at least {least:g}, or fewer STEPS")
    jump = schedule.noise.num_train_timesteps // taught
    return [(lower - int(i)) * jump - 1 for i in np.linspace(0, lower, steps, endpoint=False)]


def _boundary(timestep: float) -> tuple[float, float]:
    """How much a consistency model keeps of its sample, and how much it takes of the answer: 1 and 0 at timestep 0."""
    return BOUNDARY**2 / (timestep**2 + BOUNDARY**2), timestep / sqrt(timestep**2 + BOUNDARY**2)


def _advance(x: Array, x0: Array, now: Level, then: Level) -> Array:
    """From one level to the next, where `x0` is the mean of x_0 on the way (Proposition 4.1 of arXiv 2211.01095).

    The mean is over the log SNR λ, with weights e^λ.
    """
    return f32((then[1] / now[1]) * x - then[0] * np.expm1(_log_snr(now) - _log_snr(then)) * x0)


def _ahead(x0s: Sequence[Array], levels: Sequence[Level]) -> Array:
    """The mean of x_0 between the last two levels, of which only the first is known (UniP, Corollary 3.2).

    From a line through the last two of `x0s`, and as if the mean were its middle.
    """
    if len(x0s) == 1:
        return x0s[-1]
    before, now, then = (_log_snr(level) for level in levels[-3:])
    return f32(x0s[-1] + (x0s[-1] - x0s[-2]) / (2 * (now - before) / (then - now)))


def _behind(x0s: Sequence[Array], levels: Sequence[Level]) -> Array:
    """The mean of x_0 between the last two levels, both of which are known (UniC, Theorem 3.1).

    From a parabola through the last three of `x0s` in u, which is 0 and 1 at these levels; or the middle of two.
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

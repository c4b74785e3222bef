"""The loop that every recipe trains in: it brings one loss down, and goes on where an earlier run was killed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from impasto_fit.budget import Budget
from impasto_fit.draws import Draws
from impasto_fit.errors import Cancelled, Diverged
from impasto_fit.pictures import Picture
from impasto_fit.progress import Progress, Report, Wish
from impasto_fit.state import State

Schedule = Callable[[float, int], float]  # (share of the budget that is spent, step) -> factor of the learning rate


def constant(spent: float, step: int) -> float:
    return 1.0


@dataclass(frozen=True)
class OneCycle:
    """A linear warm-up in steps, then a cosine over the budget down to `floor`."""

    warmup: int = 20
    floor: float = 0.02

    def __call__(self, spent: float, step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * spent))
        return min(1.0, (step + 1) / self.warmup) * (self.floor + (1 - self.floor) * cosine)


@dataclass(frozen=True)
class Task:
    """What is trained: `weights` by name, all in the one optimiser. `loss` may be asked twice in a step (L-BFGS).

    `clip` bounds the norm of all gradients together. `preview` paints what there is.
    """

    weights: Mapping[str, nn.Parameter]
    optimiser: Optimizer
    loss: Callable[[Draws], Tensor]
    preview: Callable[[], Picture]
    schedule: Schedule = constant
    clip: float = math.inf


class Session:
    """One fit under way: its parts in order, of which an earlier run may have done some."""

    def __init__(self, fit: str, seed: int, progress: Progress) -> None:
        """
        Raises:
            StateError: what `progress` kept is damaged, or not of this `fit`.
        """
        self.seed, self.progress = seed, progress
        kept = progress.kept()
        self.state = State(fit) if kept is None else State.load(kept, fit)

    def run(self, part: str, task: Task, budget: Budget) -> None:
        """Train until the budget is spent, or the watcher wants no more.

        Raises:
            Diverged: the loss is NaN or infinite.
            Cancelled: the watcher wants that.
        """
        state = self.state
        if part in state.done:
            _put(task.weights, state.done[part])
            return
        self._begin(part, task)
        rates = [group["lr"] for group in task.optimiser.param_groups]
        wish = Wish.GO_ON
        while wish is Wish.GO_ON and (spent := budget.spent(state.step, state.seconds)) < 1:
            started = time.monotonic()
            _set_rates(task.optimiser, [rate * task.schedule(spent, state.step) for rate in rates])
            state.losses.append(self._step(task))
            _set_rates(task.optimiser, rates)
            state.step += 1
            state.seconds += time.monotonic() - started
            wish = self.progress(self._report(task, budget))
        if wish is Wish.CANCEL:
            raise Cancelled(f"{part}: cancelled after {state.step} steps")
        state.done[part] = _taken(task.weights)
        state.part, state.weights, state.optimiser = "", {}, {}

    def once(self, part: str, make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """What `make` gives, which an earlier run may have made already; for what takes long and isn't trained."""
        if part not in self.state.done:
            self.state.done[part] = dict(make())
        return self.state.done[part]

    @property
    def losses(self) -> list[float]:
        """Of the last part that ran."""
        return self.state.losses

    def _begin(self, part: str, task: Task) -> None:
        state = self.state
        if state.part == part:
            _put(task.weights, state.weights)
            task.optimiser.load_state_dict(state.optimiser)
        else:
            state.part, state.step, state.seconds, state.losses = part, 0, 0.0, []

    def _report(self, task: Task, budget: Budget) -> Report:
        state, preview = self.state, torch.no_grad()(task.preview)
        return Report(state.part, state.step, budget.steps, state.losses[-1], preview, lambda: self._dump(task))

    def _step(self, task: Task) -> float:
        """Returns the loss before the step."""
        seen: list[float] = []

        def closure() -> float:
            task.optimiser.zero_grad()
            loss = task.loss(Draws.of(self.seed, self.state.part, self.state.step))
            seen.append(float(loss.detach()))
            if not math.isfinite(seen[-1]):
                problem = f"loss: is {seen[-1]} at step {self.state.step + 1} of {self.state.part}"
                raise Diverged(f"{problem}; use a smaller learning rate")
            loss.backward()
            if math.isfinite(task.clip):
                nn.utils.clip_grad_norm_(list(task.weights.values()), task.clip)
            return seen[-1]

        task.optimiser.step(closure)
        return seen[0]

    def _dump(self, task: Task) -> bytes:
        self.state.weights = _taken(task.weights)
        self.state.optimiser = task.optimiser.state_dict()
        return self.state.dump()


def _set_rates(optimiser: Optimizer, rates: Sequence[float]) -> None:
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate


def _taken(weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in weights.items()}


@torch.no_grad()
def _put(weights: Mapping[str, nn.Parameter], found: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        weight.copy_(found[name])

"""A module in training that outlives its process: weights, their average, optimisers and counters are in a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from studio.training import workers
from studio.training.loop import Budget, Jobs, Loop
from studio.training.optimisers import Optimisers

SAVE_SECONDS = 240.0


class Average:
    """Exponential moving average of a module's floating-point state, with a warm-up."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)


@dataclass
class Kept:
    """The first worker alone has the average and writes the file."""

    path: Path
    module: nn.Module
    average: Average
    loop: Loop

    @classmethod
    def of(
        cls, path: Path, module: nn.Module, optimisers: Optimisers, budget: Budget, decay: float, warmup: int = 50
    ) -> Kept:
        return cls(path, module, Average(module, decay), Loop(path.stem, budget, optimisers, warmup))

    def resume(self) -> bool:
        """Go on where an earlier run stopped; False when there was none."""
        if not self.path.exists():
            return False
        saved: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
        self.module.load_state_dict(saved["model"])
        self.average.state = saved["average"]
        self.loop.optimisers.load_state_dict(saved["optimisers"])
        counters = saved["loop"]
        self.loop.step, self.loop.seconds, self.loop.losses = (counters[k] for k in ("step", "seconds", "losses"))
        return True

    def run(self, loss: Callable[[], Tensor], jobs: Jobs | None = None) -> None:
        """Train until the budget is spent, and save now and then."""
        self.loop.run(loss, {SAVE_SECONDS: self.save, **(jobs or {})}, self._follow)
        self.save()

    def save(self) -> None:
        if workers.rank() > 0:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".fresh")
        torch.save(self._state(), fresh)
        os.replace(fresh, self.path)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While inside, the module has the averaged weights."""
        current = {name: value.clone() for name, value in self.module.state_dict().items()}
        self.module.load_state_dict(self.average.state)
        try:
            yield
        finally:
            self.module.load_state_dict(current)

    def _follow(self, step: int) -> None:
        if workers.rank() == 0:
            self.average.update(self.module, step)

    def _state(self) -> Mapping[str, object]:
        loop = {"step": self.loop.step, "seconds": self.loop.seconds, "losses": self.loop.losses}
        optimisers = self.loop.optimisers.state_dict()
        return {
            "model": self.module.state_dict(),
            "average": self.average.state,
            "optimisers": optimisers,
            "loop": loop,
        }

"""The loop that every recipe trains in: it brings one loss down, and spends a budget and a learning rate on that."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from studio.training import workers
from studio.training.optimisers import Optimisers

Jobs = Mapping[float, Callable[[], None]]  # what is done every so many seconds


@dataclass(frozen=True)
class Budget:
    """Training ends at `steps` or after `minutes`, whichever comes first; the learning rate is spent over it."""

    steps: int
    minutes: float = math.inf

    def spent(self, step: int, seconds: float) -> float:
        return min(1.0, max(step / self.steps, seconds / 60 / self.minutes))


def one_cycle(spent: float, step: int, warmup: int, floor: float = 0.02) -> float:
    """Learning-rate factor: a linear warm-up in steps, then a cosine over the budget."""
    return min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * spent)))


@dataclass
class Loop:
    """Steps, seconds and losses so far; the first `warmup` steps are slower."""

    name: str
    budget: Budget
    optimisers: Optimisers
    warmup: int
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)

    @property
    def spent(self) -> float:
        return self.budget.spent(self.step, self.seconds)

    def run(
        self, loss: Callable[[], Tensor], jobs: Jobs | None = None, after: Callable[[int], None] | None = None
    ) -> None:
        """Take steps until the budget is spent; `after` is called with each one's number."""
        due = {period: self.seconds + period for period in jobs or {}}
        with _progress() as progress:
            task = progress.add_task(self.name, total=self.budget.steps, completed=self.step, loss=0.0)
            while self.spent < 1:
                started = time.monotonic()
                self._take_step(loss)
                if after:
                    after(self.step)
                self.step += 1
                self.seconds += workers.slowest(time.monotonic() - started)
                progress.update(task, completed=self.step, loss=recent(self.losses))
                if self.step % 50 == 0 and not progress.console.is_terminal and workers.rank() == 0:
                    print(f"step {self.step} after {self.seconds:.0f} s: {recent(self.losses):.4f}", flush=True)
                for period, job in (jobs or {}).items():
                    if self.seconds >= due[period]:
                        due[period] = self.seconds + period
                        job()

    def _take_step(self, loss: Callable[[], Tensor]) -> None:
        found = loss()
        self.optimisers.step(found, one_cycle(self.spent, self.step, self.warmup))
        self.losses.append(float(found.detach()))


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        refresh_per_second=0.2,
    )


def recent(losses: list[float], last: int = 100) -> float:
    tail = losses[-last:]
    return sum(tail) / max(1, len(tail))

"""What every recipe shares: a budget, a resumable loop, averaged weights, a loss curve."""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

import workers

SAVE_SECONDS = 240.0


@dataclass(frozen=True)
class Budget:
    """Training ends at `steps` or after `minutes`, whichever comes first; the learning rate is spent over it."""

    steps: int
    minutes: float

    def spent(self, step: int, seconds: float) -> float:
        return min(1.0, max(step / self.steps, seconds / 60 / self.minutes))


def one_cycle(spent: float, step: int, warmup: int, floor: float = 0.02) -> float:
    """Learning-rate factor: a linear warm-up in steps, then a cosine over the budget."""
    return min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * spent)))


def half_precision(device: str) -> AbstractContextManager[object]:
    """bfloat16 for matrices and convolutions where the processor multiplies in it; float32 elsewhere."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind != "cpu" or torch.cpu._is_avx512_bf16_supported())


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
class Loop:
    """Steps, seconds and losses so far; `path` is where the whole state is kept between runs."""

    path: Path
    budget: Budget
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)

    @property
    def spent(self) -> float:
        return self.budget.spent(self.step, self.seconds)

    def resume(self) -> Mapping[str, Any] | None:
        """The state saved by an earlier run, its counters restored; None for a fresh start."""
        if not self.path.exists():
            return None
        saved: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
        counters = saved["loop"]
        self.step, self.seconds, self.losses = counters["step"], counters["seconds"], counters["losses"]
        return saved

    def save(self, state: Mapping[str, object]) -> None:
        if workers.rank() > 0:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".fresh")
        counters = {"step": self.step, "seconds": self.seconds, "losses": self.losses}
        torch.save({**state, "loop": counters}, fresh)
        os.replace(fresh, self.path)

    def run(
        self,
        train_step: Callable[[float], Tensor],
        state: Callable[[], Mapping[str, object]],
        every: Mapping[float, Callable[[], None]] | None = None,
    ) -> None:
        """Call `train_step(spent)` until the budget is spent; `every` maps seconds to what is done that often."""
        jobs: dict[float, Callable[[], None]] = {SAVE_SECONDS: lambda: self.save(state()), **(every or {})}
        due = {period: self.seconds + period for period in jobs}
        with _progress() as progress:
            task = progress.add_task(self.path.stem, total=self.budget.steps, completed=self.step, loss=0.0)
            while self.spent < 1:
                started = time.monotonic()
                self.losses.append(float(train_step(self.spent)))
                self.step += 1
                self.seconds += workers.slowest(time.monotonic() - started)
                progress.update(task, completed=self.step, loss=recent(self.losses))
                if self.step % 50 == 0 and not progress.console.is_terminal and workers.rank() == 0:
                    print(f"step {self.step} after {self.seconds:.0f} s: {recent(self.losses):.4f}", flush=True)
                for period, job in jobs.items():
                    if self.seconds >= due[period]:
                        due[period] = self.seconds + period
                        job()
        self.save(state())


def _progress() -> AbstractContextManager[Progress] | Progress:
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


def draw_curve(losses: list[float], title: str, path: Path, width: int = 480, height: int = 240) -> None:
    """The loss, averaged over 1 % of the run at a time, on a logarithmic axis."""
    window = max(1, len(losses) // 100)
    means = [sum(losses[i : i + window]) / window for i in range(0, len(losses) - window + 1, window)]
    logs = [math.log(max(mean, 1e-8)) for mean in means]
    low, high = min(logs), max(logs) + 1e-6
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = 50, 24, width - 10, height - 24
    spots = [
        (left + (right - left) * i / max(1, len(logs) - 1), bottom - (bottom - top) * (log - low) / (high - low))
        for i, log in enumerate(logs)
    ]
    draw.rectangle((left, top, right, bottom), outline="lightgrey")
    draw.line(spots, fill=(40, 98, 214), width=2)
    draw.text((left, 6), title, fill="black")
    draw.text((4, top), f"{math.exp(high):.3g}", fill="black")
    draw.text((4, bottom - 10), f"{math.exp(low):.3g}", fill="black")
    draw.text((left, bottom + 6), f"{len(losses)} steps", fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, optimize=True)


def recipe_arguments(description: str, steps: int, minutes: float) -> argparse.ArgumentParser:
    """The options that all recipes take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=("small", "large"), default="small")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path, help="start from this checkpoint's weights, not from random ones")
    return parser

"""What a fit may spend: steps, and minutes."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """A fit ends after `steps` or `minutes` of work, whichever comes first; its learning rate is spent over that.

    With minutes, how far it gets hangs on the machine; by steps alone, equal seeds give equal files.
    """

    steps: int
    minutes: float = math.inf

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.minutes > 0:
            raise ValueError(f"budget: got {self.steps} steps, {self.minutes} minutes; both must be above 0")

    def spent(self, step: int, seconds: float) -> float:
        """0 at the beginning, 1 at the end."""
        return min(1.0, max(step / self.steps, seconds / 60 / self.minutes))

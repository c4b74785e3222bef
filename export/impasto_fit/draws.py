"""What one step draws at random: it follows from the seed, the part and the step's number alone.

So a fit that was killed needs no random state to go on bit for bit, and a preview takes nothing from the next step.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Draws:
    """Both generators draw on the CPU, so that a seed means the same on every device."""

    torch: torch.Generator
    numpy: np.random.Generator

    @classmethod
    def of(cls, seed: int, part: str, step: int) -> Draws:
        """`step` may be negative: what is drawn before the first step, for a start or a lesson."""
        word = hashlib.sha256(f"{seed} {part} {step}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(word[:8], "little") >> 1)
        return cls(generator, np.random.default_rng(int.from_bytes(word[8:24], "little")))

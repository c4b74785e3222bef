"""What a fit that was killed goes on from: weights, optimiser and counters, as bytes that hold no code.

No random state is in it: what a step draws follows from the seed and the step's number (draws.py).
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from impasto_fit.errors import StateError

FORMAT = 1
UNREADABLE = (
    *(RuntimeError, ValueError, KeyError, TypeError, EOFError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile),
)


@dataclass
class State:
    """`fit` tells which fit this is of (provenance.py). `done` are the weights of the parts that are behind it."""

    fit: str
    done: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    part: str = ""
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)

    def dump(self) -> bytes:
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, **vars(self)}, buffer)
        return buffer.getvalue()

    @classmethod
    def load(cls, data: bytes, fit: str) -> State:
        """
        Raises:
            StateError: it is damaged, or of another fit than `fit`.
        """
        try:
            found = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
            if found.pop("format") != FORMAT:
                raise KeyError("format")
            state = cls(**found)
        except UNREADABLE:
            raise StateError("state: it can't be read; begin anew") from None
        if state.fit != fit:
            raise StateError("state: it is of another recipe, checkpoint, seed or other pictures; begin anew")
        return state

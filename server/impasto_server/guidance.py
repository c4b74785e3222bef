"""Guidance rules: each turns a request into lanes and one row of coefficients over them.

A lane is one forward pass of the backbone: a text context and a mix of adapters. The guided prediction is the
coefficient-weighted sum of the lanes' predictions. No rule knows which sampler runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Mix:
    """Adapters by digest with their weights, sorted, none of weight 0; the empty mix is the plain backbone."""

    parts: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, parts: Sequence[tuple[str, float]]) -> Mix:
        return cls(tuple(sorted((digest, weight) for digest, weight in parts if weight != 0)))


@dataclass(frozen=True)
class Lane:
    prompt: str
    mix: Mix


@dataclass(frozen=True)
class Guidance:
    """Lanes that are run, and as many coefficients."""

    lanes: tuple[Lane, ...]
    coefficients: tuple[float, ...]

    @classmethod
    def over(cls, *weighted: tuple[float, Lane]) -> Guidance:
        """A lane whose coefficient is 0 can't change the prediction and is left out."""
        live = [(coefficient, lane) for coefficient, lane in weighted if coefficient != 0]
        return cls(tuple(lane for _, lane in live), tuple(coefficient for coefficient, _ in live))


def classifier_free(prompt: str, negative_prompt: str, mix: Mix, scale: float) -> Guidance:
    """(1 - s)·null + s·cond: Eq. 6 of arXiv 2207.12598 with s = w + 1, so s = 1 is the conditional lane alone."""
    return Guidance.over((1 - scale, Lane(negative_prompt, mix)), (scale, Lane(prompt, mix)))


def combine(coefficients: Sequence[float], outputs: Array) -> Array:
    """Coefficient-weighted sum over the first axis: [lanes, ...] float32 -> [...] float32."""
    return np.tensordot(np.asarray(coefficients, np.float32), outputs, axes=1)

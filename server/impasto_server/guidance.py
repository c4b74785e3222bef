"""Guidance rules: each turns a request into lanes and one row of coefficients over them.

A lane is one forward pass of the backbone: a text (which may change with the timestep) and a mix of adapters. The
guided prediction is the coefficient-weighted sum of the lanes' predictions. No rule knows which sampler runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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
class Text:
    """What a lane says at each stage of the timestep, the finest first; most texts have one stage."""

    stages: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Text:
        return cls((text,))


@dataclass(frozen=True)
class Prompts:
    """What a request's lanes can say: all of it (v), context alone (v_c), style alone (v_s), and neither (the null).

    `context` and `style` are there when the request names a style.
    """

    full: Text
    null: Text
    context: Text | None = None
    style: Text | None = None


@dataclass(frozen=True)
class Lane:
    text: Text
    mix: Mix


@dataclass(frozen=True)
class Guidance:
    """Lanes that are run, and as many coefficients."""

    lanes: tuple[Lane, ...]
    coefficients: tuple[float, ...]

    @classmethod
    def over(cls, *weighted: tuple[float, Lane]) -> Guidance:
        """A lane whose coefficient is 0 can't change the prediction and is left out; one at least is kept."""
        live = [(coefficient, lane) for coefficient, lane in weighted if coefficient != 0] or weighted[:1]
        return cls(tuple(lane for _, lane in live), tuple(coefficient for coefficient, _ in live))


class Rule(Protocol):
    """A guidance rule with its strengths."""

    def __call__(self, prompts: Prompts, mix: Mix) -> Guidance:
        """Lanes and coefficients for prompts under a mix of adapters."""
        ...


@dataclass(frozen=True)
class ClassifierFree:
    """(1 - s)·null + s·cond: Eq. 6 of arXiv 2207.12598 with s = w + 1, so s = 1 is the conditional lane alone."""

    scale: float

    def __call__(self, prompts: Prompts, mix: Mix) -> Guidance:
        return Guidance.over((1 - self.scale, Lane(prompts.null, mix)), (self.scale, Lane(prompts.full, mix)))


@dataclass(frozen=True)
class DreamStyler:
    """Eq. 11 of arXiv 2309.06933, its terms gathered by lane: λn is `scale`, λs `style`, λc `content`.

    null + λn(v - null) + λc(v_c - null) + λs(v - v_c) + λs(v_s - null) + λc(v - v_s). With λs = λc two lanes are left,
    and both at 0 make it classifier-free guidance of scale λn.
    """

    scale: float
    style: float
    content: float

    def __call__(self, prompts: Prompts, mix: Mix) -> Guidance:
        assert prompts.context is not None, "the request names a style"
        assert prompts.style is not None
        return Guidance.over(
            (1 - self.scale - self.content - self.style, Lane(prompts.null, mix)),
            (self.scale + self.style + self.content, Lane(prompts.full, mix)),
            (self.content - self.style, Lane(prompts.context, mix)),
            (self.style - self.content, Lane(prompts.style, mix)),
        )


def dreamstyler_code(scale: float, style: float, content: float) -> DreamStyler:
    """The rule as the paper's published code has it: the four terms of λs and λc at half their strength."""
    return DreamStyler(scale, style / 2, content / 2)


def combine(coefficients: Sequence[float], outputs: Array) -> Array:
    """Coefficient-weighted sum over the first axis: [lanes, ...] float32 -> [...] float32."""
    return np.tensordot(np.asarray(coefficients, np.float32), outputs, axes=1)

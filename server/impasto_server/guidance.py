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
    """Adapters by digest with their weights, sorted, none of weight 0; the empty mix is the plain backbone.

    Weights are float32's, as they count: 0.8 off the wire, in Python and in a manifest is one mix.
    """

    parts: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, parts: Sequence[tuple[str, float]]) -> Mix:
        return cls(tuple(sorted((digest, float(np.float32(weight))) for digest, weight in parts if weight != 0)))


@dataclass(frozen=True)
class Text:
    """What a lane says at each stage of the timestep, the finest first; most texts have one stage."""

    stages: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Text:
        return cls((text,))


@dataclass(frozen=True)
class Prompts:
    """What a request's lanes can say: all of it (v, or t), context alone (v_c, or c), style alone (v_s), and neither.

    `context` is there when the request names a style or a content adapter, `style` when it names an embedding.
    """

    full: Text
    null: Text
    context: Text | None = None
    style: Text | None = None


@dataclass(frozen=True)
class Mixes:
    """The adapters of lanes that say the full prompt, and those of lanes that say the context alone."""

    full: Mix = Mix()
    context: Mix = Mix()


@dataclass(frozen=True)
class Lane:
    """What is said, which is nothing in a family without words, under a mix."""

    text: Text = Text(())
    mix: Mix = Mix()


@dataclass(frozen=True)
class Guidance:
    """Lanes, and two rows of as many coefficients: with the rule's strengths as they are, and with all of them at 0."""

    lanes: tuple[Lane, ...]
    coefficients: tuple[float, ...]
    unguided: tuple[float, ...]

    @classmethod
    def over(cls, *terms: tuple[float, float, Lane]) -> Guidance:
        """From (coefficient, unguided coefficient, lane). Terms of one lane are added up.

        A lane that never counts can't change the prediction and is left out; one at least is kept.
        """
        strong: dict[Lane, float] = {}
        weak: dict[Lane, float] = {}
        for coefficient, unguided, lane in terms:
            strong[lane] = strong.get(lane, 0.0) + coefficient
            weak[lane] = weak.get(lane, 0.0) + unguided
        lanes = tuple(lane for lane in strong if strong[lane] or weak[lane]) or tuple(strong)[:1]
        return cls(lanes, tuple(strong[lane] for lane in lanes), tuple(weak[lane] for lane in lanes))

    def at(self, strength: float) -> tuple[float, ...]:
        """Coefficients with the rule's strengths times `strength`, 0 to 1: every rule is linear in them."""
        if strength == 1:
            return self.coefficients
        return tuple(
            weak + strength * (strong - weak) for strong, weak in zip(self.coefficients, self.unguided, strict=True)
        )


class Rule(Protocol):
    """A guidance rule with its strengths."""

    def __call__(self, prompts: Prompts, mixes: Mixes) -> Guidance:
        """Lanes and coefficients for prompts under mixes of adapters."""
        ...


@dataclass(frozen=True)
class ClassifierFree:
    """(1 - s)·null + s·cond: Eq. 6 of arXiv 2207.12598 with s = w + 1, so s = 1 is the conditional lane alone."""

    scale: float

    def __call__(self, prompts: Prompts, mixes: Mixes) -> Guidance:
        return Guidance.over(
            (1 - self.scale, 0, Lane(prompts.null, mixes.full)),
            (self.scale, 1, Lane(prompts.full, mixes.full)),
        )


@dataclass(frozen=True)
class DreamStyler:
    """Eq. 11 of arXiv 2309.06933, its terms gathered by lane: λn is `scale`, λs `style`, λc `content`.

    null + λn(v - null) + λc(v_c - null) + λs(v - v_c) + λs(v_s - null) + λc(v - v_s). With λs = λc two lanes are left,
    and both at 0 make it classifier-free guidance of scale λn. Unguided, it's v alone (λn = 1).
    """

    scale: float
    style: float
    content: float

    def __call__(self, prompts: Prompts, mixes: Mixes) -> Guidance:
        assert prompts.context is not None, "the request names a style"
        assert prompts.style is not None
        return Guidance.over(
            (1 - self.scale - self.content - self.style, 0, Lane(prompts.null, mixes.full)),
            (self.scale + self.style + self.content, 1, Lane(prompts.full, mixes.full)),
            (self.content - self.style, 0, Lane(prompts.context, mixes.full)),
            (self.style - self.content, 0, Lane(prompts.style, mixes.full)),
        )


def dreamstyler_code(scale: float, style: float, content: float) -> DreamStyler:
    """The rule as the paper's published code has it: the four terms of λs and λc at half their strength."""
    return DreamStyler(scale, style / 2, content / 2)


@dataclass(frozen=True)
class StyleDrop:
    """Eq. 4 of arXiv 2306.00983, G the backbone, Ĝ the adapted one: λA is `style_strength`, λB `text_strength`.

    Ĝ(t) + λA(Ĝ(t) - G(t)) + λB(G(t) - G(n)), where t is the prompt and n the negative one.
    """

    style_strength: float
    text_strength: float

    def __call__(self, prompts: Prompts, mixes: Mixes) -> Guidance:
        return Compose(self.style_strength, self.text_strength, 0.0)(prompts, mixes)


@dataclass(frozen=True)
class Compose:
    """Section 3.4 of arXiv 2306.00983: (1 - γ) of Eq. 4 under a style's adapter and γ of it under a content's.

    The content's half says the prompt without the style. G(n) counts -λB, since (1 - γ)(-λB) + γ(-λB) is that.
    """

    style_strength: float
    text_strength: float
    gamma: float

    def __call__(self, prompts: Prompts, mixes: Mixes) -> Guidance:
        adapted, plain = 1 + self.style_strength, self.text_strength - self.style_strength
        style, content = 1 - self.gamma, self.gamma
        context = prompts.context or prompts.full
        return Guidance.over(
            (style * adapted, style, Lane(prompts.full, mixes.full)),
            (style * plain, 0, Lane(prompts.full, Mix())),
            (content * adapted, content, Lane(context, mixes.context)),
            (content * plain, 0, Lane(context, Mix())),
            (-self.text_strength, 0, Lane(prompts.null, Mix())),
        )


def combine(coefficients: Sequence[float], outputs: Sequence[Array]) -> Array:
    """Coefficient-weighted sum of the lanes' outputs, float32; lane by lane, since logits are too large to stack."""
    total = np.multiply(outputs[0], coefficients[0], dtype=np.float32)
    term = np.empty_like(total)
    for coefficient, output in zip(coefficients[1:], outputs[1:], strict=True):
        np.multiply(output, np.float32(coefficient), out=term)
        total += term
    return total

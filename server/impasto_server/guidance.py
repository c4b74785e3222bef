"""Guidance rules: each turns a request into lanes and one row of coefficients over them.

A lane is one forward pass of the backbone: a text (which may change with the timestep) and a mix of adapters. The
guided prediction is the coefficient-weighted sum of the lanes' predictions. No rule knows which sampler runs it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from impasto_server.fields import Number, Option, given

Array = NDArray[Any]

MAX_STRENGTH = 50.0
TOGETHER = 128  # rows of outputs
# What the code published with arXiv 2309.06933 puts in the place of the null.
CODE_NEGATIVE_PROMPT = (
    "low resolution, poorly drawn, worst quality, low quality, normal quality, blurry image, artifact"
)


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


@dataclass(frozen=True)
class Need:
    """One of `fields` has to be said, of which the first is named where none is; `fix` says what to do."""

    fields: tuple[str, ...]
    fix: str


@dataclass(frozen=True)
class Rule(ABC):
    """A guidance rule with its strengths, which are its attributes, each with the row of its field.

    name     what GUIDANCE calls it; empty for one that no request can ask for.
    about    what it is, for people.
    styled   what STYLE names under it.
    knows    which of the fields it knows that mean something to some rules alone.
    needs    what has to be said with it.
    usual    what it gives a request that doesn't say, by field.
    kin      whose idea it is, and `convention` which reading of it, where there are two.
    """

    name: ClassVar[str] = ""
    about: ClassVar[str] = ""
    styled: ClassVar[Literal["embedding", "adapter"]] = "embedding"
    knows: ClassVar[tuple[str, ...]] = ("ADAPTER_NAMES",)
    needs: ClassVar[tuple[Need, ...]] = ()
    usual: ClassVar[Mapping[str, Any]] = {}
    kin: ClassVar[str] = ""
    convention: ClassVar[str] = ""

    @abstractmethod
    def __call__(self, prompts: Prompts, mixes: Mixes) -> Guidance:
        """Lanes and coefficients for prompts under mixes of adapters."""


@dataclass(frozen=True)
class ClassifierFree(Rule):
    """(1 - s)·null + s·cond: Eq. 6 of arXiv 2207.12598 with s = w + 1, so s = 1 is the conditional lane alone.

    1 or less is that, too, as in diffusers: Turbo checkpoints are asked for a scale of 0 and mean it, where Eq. 6 would
    paint from the negative prompt alone.
    """

    name: ClassVar[str] = "cfg"
    about: ClassVar[str] = "classifier-free guidance"

    scale: float = given(
        Number(
            "GUIDANCE_SCALE",
            "How strongly the prompt counts; 1 or less turns guidance off (a Turbo checkpoint's 0 means that), but "
            "with bundles that have their guidance built in (LCM), which are told of it as it is.",
            usual="the bundle's",
            option=Option(
                "how strongly the prompt counts, 0 to 50; 1 or less turns guidance off.",
                "How strongly the prompt counts.",
            ),
            low=0.0,
            high=MAX_STRENGTH,
        )
    )

    def __call__(self, prompts: Prompts, mixes: Mixes) -> Guidance:
        scale = max(1.0, self.scale)
        return Guidance.over(
            (1 - scale, 0, Lane(prompts.null, mixes.full)),
            (scale, 1, Lane(prompts.full, mixes.full)),
        )


def _strength(field: str, default: float, help: str, flag: str) -> Any:
    option = Option(flag=flag)
    return given(Number(field, help, default, option=option, low=-MAX_STRENGTH, high=MAX_STRENGTH))


@dataclass(frozen=True)
class DreamStyler(Rule):
    """Eq. 11 of arXiv 2309.06933, its terms gathered by lane: λn is `scale`, λs `style`, λc `content`.

    null + λn(v - null) + λc(v_c - null) + λs(v - v_c) + λs(v_s - null) + λc(v - v_s). With λs = λc two lanes are left,
    and both at 0 make it classifier-free guidance of scale λn. Unguided, it's v alone (λn = 1).
    """

    name: ClassVar[str] = "dreamstyler"
    about: ClassVar[str] = "style and content apart, Eq. 11 of arXiv 2309.06933"
    needs: ClassVar[tuple[Need, ...]] = (Need(("STYLE",), "name an embedding"),)
    kin: ClassVar[str] = "DreamStyler"
    convention: ClassVar[str] = "paper"

    scale: float = _strength("GUIDANCE_SCALE", 5.0, "λn: how strongly the whole prompt counts.", "")
    style: float = _strength(
        "STYLE_GUIDANCE",
        0.5,
        "λs: how strongly the style counts, apart from the content.",
        "With --style: how strongly the style counts, apart from the content.",
    )
    content: float = _strength(
        "CONTENT_GUIDANCE",
        3.0,
        "λc: how strongly the content counts, apart from the style.",
        "With --style: how strongly the content counts, apart from the style.",
    )

    def __call__(self, prompts: Prompts, mixes: Mixes) -> Guidance:
        assert prompts.context is not None, "the request names a style"
        assert prompts.style is not None
        return Guidance.over(
            (1 - self.scale - self.content - self.style, 0, Lane(prompts.null, mixes.full)),
            (self.scale + self.style + self.content, 1, Lane(prompts.full, mixes.full)),
            (self.content - self.style, 0, Lane(prompts.context, mixes.full)),
            (self.style - self.content, 0, Lane(prompts.style, mixes.full)),
        )


@dataclass(frozen=True)
class DreamStylerCode(DreamStyler):
    """The rule as the paper's published code has it: the four terms of λs and λc at half their strength."""

    name: ClassVar[str] = "dreamstyler-code"
    about: ClassVar[str] = "the same as its authors' code has it, which halves the terms of style and content"
    usual: ClassVar[Mapping[str, Any]] = {"NEGATIVE_PROMPT": CODE_NEGATIVE_PROMPT}
    convention: ClassVar[str] = "code"

    def __call__(self, prompts: Prompts, mixes: Mixes) -> Guidance:
        return DreamStyler(self.scale, self.style / 2, self.content / 2)(prompts, mixes)


@dataclass(frozen=True)
class StyleDrop(Rule):
    """Eq. 4 of arXiv 2306.00983, G the backbone, Ĝ the adapted one: λA is `style_strength`, λB `text_strength`.

    Ĝ(t) + λA(Ĝ(t) - G(t)) + λB(G(t) - G(n)), where t is the prompt and n the negative one.
    """

    name: ClassVar[str] = "styledrop"
    about: ClassVar[str] = "by what an adapter changes, Eq. 4 of arXiv 2306.00983"
    styled: ClassVar[Literal["embedding", "adapter"]] = "adapter"
    needs: ClassVar[tuple[Need, ...]] = (Need(("STYLE", "ADAPTER_NAMES"), "name an adapter, here or in ADAPTER_NAMES"),)
    kin: ClassVar[str] = "StyleDrop"

    style_strength: float = _strength(
        "STYLE_STRENGTH",
        2.0,
        "λA: how strongly the adapter counts beyond itself.",
        "With StyleDrop's guidance: how strongly the adapter counts beyond itself.",
    )
    text_strength: float = _strength(
        "TEXT_STRENGTH",
        5.0,
        "λB: how strongly the prompt counts.",
        "With StyleDrop's guidance: how strongly the prompt counts.",
    )

    def __call__(self, prompts: Prompts, mixes: Mixes) -> Guidance:
        return Compose(self.style_strength, self.text_strength, 0.0)(prompts, mixes)


@dataclass(frozen=True)
class Compose(StyleDrop):
    """Section 3.4 of arXiv 2306.00983: (1 - γ) of Eq. 4 under a style's adapter and γ of it under a content's.

    The content's half says the prompt without the style. G(n) counts -λB, since (1 - γ)(-λB) + γ(-λB) is that.
    """

    name: ClassVar[str] = "styledrop-compose"
    about: ClassVar[str] = "the adapters of a style and of a content composed, its §3.4"
    knows: ClassVar[tuple[str, ...]] = ("CONTENT", "CONTENT_PROMPT")
    needs: ClassVar[tuple[Need, ...]] = (
        Need(("STYLE",), "name the style's adapter"),
        Need(("CONTENT",), "name the content's adapter"),
    )

    gamma: float = given(
        Number(
            "GAMMA",
            "γ: from the style alone, 0, to the content alone, 1.",
            0.5,
            option=Option(flag="With --content: from 0, style alone, to 1, content alone."),
            low=0.0,
            high=1.0,
        )
    )

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


# What requests can ask for; the first where they don't.
RULES: tuple[type[Rule], ...] = (ClassifierFree, DreamStyler, DreamStylerCode, StyleDrop, Compose)


def combine(coefficients: Sequence[float], outputs: Sequence[Array]) -> Array:
    """Coefficient-weighted sum of the lanes' outputs, float32; a part of all lanes after another, since logits are too
    large to stack, and too large for a cache."""
    if len(outputs) == 1 and coefficients[0] == 1 and outputs[0].dtype == np.float32:
        return outputs[0]
    total = np.empty(outputs[0].shape, np.float32)
    for start in range(0, len(total), TOGETHER):
        part = slice(start, start + TOGETHER)
        np.multiply(outputs[0][part], np.float32(coefficients[0]), out=total[part])
        for coefficient, output in zip(coefficients[1:], outputs[1:], strict=True):
            total[part] += np.multiply(output[part], np.float32(coefficient))
    return total

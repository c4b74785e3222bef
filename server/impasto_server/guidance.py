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
TOGETHER = 128  # rows of outputs that are combined at a time
# What the code published with arXiv 2309.06933 uses in place of the null prompt.
CODE_NEGATIVE_PROMPT = (
    "low resolution, poorly drawn, worst quality, low quality, normal quality, blurry image, artifact"
)


@dataclass(frozen=True)
class Mix:
    """Adapters by digest with their weights, sorted, none of weight 0. The empty mix is the plain backbone.

    Weights are rounded to float32, so 0.8 off the wire, in Python and in a manifest is the same mix.
    """

    parts: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, parts: Sequence[tuple[str, float]]) -> Mix:
        return cls(tuple(sorted((digest, float(np.float32(weight))) for digest, weight in parts if weight != 0)))


@dataclass(frozen=True)
class Text:
    """What a lane says at each stage of the denoising, the finest first; most texts have one stage."""

    stages: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Text:
        return cls((text,))


@dataclass(frozen=True)
class Prompts:
    """The prompts of a request's lanes: full (v, or t), context alone (v_c, or c), style alone (v_s), and null.

    `context` is set when the request names a style or a content adapter, `style` when it names an embedding.
    """

    full: Text
    null: Text
    context: Text | None = None
    style: Text | None = None


@dataclass(frozen=True)
class Mixes:
    """The mix of lanes that say the full prompt, and that of lanes that say the context alone."""

    full: Mix = Mix()
    context: Mix = Mix()


@dataclass(frozen=True)
class Lane:
    """A text under a mix; the text is empty in a family without words."""

    text: Text = Text(())
    mix: Mix = Mix()


@dataclass(frozen=True)
class Guidance:
    """Lanes with two coefficients for each: at the rule's full strengths, and with all strengths at 0."""

    lanes: tuple[Lane, ...]
    coefficients: tuple[float, ...]
    unguided: tuple[float, ...]

    @classmethod
    def over(cls, *terms: tuple[float, float, Lane]) -> Guidance:
        """From terms (coefficient, unguided coefficient, lane). Terms of the same lane are added up.

        A lane whose coefficients are both 0 is left out, but one lane is always kept.
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
    """At least one of `fields` must be sent. Else the error names the first, and `fix` says what to do."""

    fields: tuple[str, ...]
    fix: str


@dataclass(frozen=True)
class Rule(ABC):
    """A guidance rule. Its attributes are its strengths, each with its field's row.

    name        its value of GUIDANCE; empty for a rule that no request can ask for.
    about       what it is, for people.
    styled      what STYLE names under it.
    knows       the fields that it takes of those that only some rules take.
    needs       the fields that must be sent with it.
    usual       its own defaults, by field.
    kin         the method that it belongs to.
    convention  which reading of the method it is, where there are two.
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

    Any s below 1 counts as 1, as in diffusers. Turbo checkpoints are used with a scale of 0 and mean no guidance;
    Eq. 6 would paint from the negative prompt alone.
    """

    name: ClassVar[str] = "cfg"
    about: ClassVar[str] = "classifier-free guidance"

    scale: float = given(
        Number(
            "GUIDANCE_SCALE",
            "How strongly the prompt counts. 1 or less turns guidance off (as a Turbo checkpoint's 0 does). Bundles "
            "with built-in guidance (LCM) take it as an input instead.",
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
    """Eq. 11 of arXiv 2309.06933, with its terms gathered by lane: λn is `scale`, λs `style`, λc `content`.

    null + λn(v - null) + λc(v_c - null) + λs(v - v_c) + λs(v_s - null) + λc(v - v_s). With λs = λc two lanes are left;
    with both at 0 it is classifier-free guidance of scale λn. Unguided, it is v alone (λn = 1).
    """

    name: ClassVar[str] = "dreamstyler"
    about: ClassVar[str] = "style and content guided separately, Eq. 11 of arXiv 2309.06933"
    needs: ClassVar[tuple[Need, ...]] = (Need(("STYLE",), "name an embedding"),)
    kin: ClassVar[str] = "DreamStyler"
    convention: ClassVar[str] = "paper"

    scale: float = _strength("GUIDANCE_SCALE", 5.0, "λn: how strongly the whole prompt counts.", "")
    style: float = _strength(
        "STYLE_GUIDANCE",
        0.5,
        "λs: how strongly the style alone counts.",
        "With --style: how strongly the style alone counts.",
    )
    content: float = _strength(
        "CONTENT_GUIDANCE",
        3.0,
        "λc: how strongly the content alone counts.",
        "With --style: how strongly the content alone counts.",
    )

    def __call__(self, prompts: Prompts, mixes: Mixes) -> Guidance:
        assert prompts.context is not None, "the rule needs a style"
        assert prompts.style is not None
        return Guidance.over(
            (1 - self.scale - self.content - self.style, 0, Lane(prompts.null, mixes.full)),
            (self.scale + self.style + self.content, 1, Lane(prompts.full, mixes.full)),
            (self.content - self.style, 0, Lane(prompts.context, mixes.full)),
            (self.style - self.content, 0, Lane(prompts.style, mixes.full)),
        )


@dataclass(frozen=True)
class DreamStylerCode(DreamStyler):
    """The rule as in the paper's published code: the four terms of λs and λc count half."""

    name: ClassVar[str] = "dreamstyler-code"
    about: ClassVar[str] = "the same as in its authors' code, which halves the terms of style and content"
    usual: ClassVar[Mapping[str, Any]] = {"NEGATIVE_PROMPT": CODE_NEGATIVE_PROMPT}
    convention: ClassVar[str] = "code"

    def __call__(self, prompts: Prompts, mixes: Mixes) -> Guidance:
        return DreamStyler(self.scale, self.style / 2, self.content / 2)(prompts, mixes)


@dataclass(frozen=True)
class StyleDrop(Rule):
    """Eq. 4 of arXiv 2306.00983: λA is `style_strength`, λB `text_strength`.

    Ĝ(t) + λA(Ĝ(t) - G(t)) + λB(G(t) - G(n)), where G is the backbone, Ĝ the adapted backbone, t the prompt and n the
    negative prompt.
    """

    name: ClassVar[str] = "styledrop"
    about: ClassVar[str] = "along the difference that an adapter makes, Eq. 4 of arXiv 2306.00983"
    styled: ClassVar[Literal["embedding", "adapter"]] = "adapter"
    needs: ClassVar[tuple[Need, ...]] = (Need(("STYLE", "ADAPTER_NAMES"), "name an adapter, here or in ADAPTER_NAMES"),)
    kin: ClassVar[str] = "StyleDrop"

    style_strength: float = _strength(
        "STYLE_STRENGTH",
        2.0,
        "λA: how far to go beyond the adapter's own effect; 0 is the adapter as it is.",
        "With StyleDrop's guidance: how far to go beyond the adapter's own effect.",
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
    """Section 3.4 of arXiv 2306.00983: (1 - γ) times Eq. 4 with a style's adapter plus γ times Eq. 4 with a content's.

    The content's part says the prompt without the style. G(n) counts -λB, since (1 - γ)(-λB) + γ(-λB) = -λB.
    """

    name: ClassVar[str] = "styledrop-compose"
    about: ClassVar[str] = "a style's adapter and a content's adapter composed, §3.4 of arXiv 2306.00983"
    knows: ClassVar[tuple[str, ...]] = ("CONTENT", "CONTENT_PROMPT")
    needs: ClassVar[tuple[Need, ...]] = (
        Need(("STYLE",), "name the style's adapter"),
        Need(("CONTENT",), "name the content's adapter"),
    )

    gamma: float = given(
        Number(
            "GAMMA",
            "γ: 0 is the style alone, 1 the content alone.",
            0.5,
            option=Option(flag="With --content: 0 is the style alone, 1 the content alone."),
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


# The rules that requests can ask for; the first is the default.
RULES: tuple[type[Rule], ...] = (ClassifierFree, DreamStyler, DreamStylerCode, StyleDrop, Compose)


def combine(coefficients: Sequence[float], outputs: Sequence[Array]) -> Array:
    """Coefficient-weighted sum of the lanes' outputs, float32.

    It runs over TOGETHER rows of all lanes at a time: logits are too large to stack, and this stays in the cache.
    """
    if len(outputs) == 1 and coefficients[0] == 1 and outputs[0].dtype == np.float32:
        return outputs[0]
    total = np.empty(outputs[0].shape, np.float32)
    for start in range(0, len(total), TOGETHER):
        part = slice(start, start + TOGETHER)
        np.multiply(outputs[0][part], np.float32(coefficients[0]), out=total[part])
        for coefficient, output in zip(coefficients[1:], outputs[1:], strict=True):
            total[part] += np.multiply(output[part], np.float32(coefficient))
    return total

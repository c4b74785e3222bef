"""What may be said of a picture besides the prompt, in the caller's words: the types of `Options` (fields.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, TypedDict

from PIL import Image

Adapters: TypeAlias = Mapping[str, float] | str | None
Style: TypeAlias = str | Sequence[str] | Mapping[str, range] | None
Picture: TypeAlias = bytes | Path | Image.Image
Pictures: TypeAlias = Picture | Sequence[Picture]

# Of a photo: a style's name in the server's registry, or a picture whose style is taken.
PhotoStyle: TypeAlias = str | Picture
# Keys are names and Paths: of `str | Path` a type checker would refuse a variable of type dict[str, float].
PhotoStyles: TypeAlias = PhotoStyle | Sequence[PhotoStyle | tuple[PhotoStyle, float]] | Mapping[Any, float] | None
Regions: TypeAlias = Sequence[tuple[PhotoStyle | tuple[PhotoStyle, float], Picture]] | Mapping[Any, Picture]


class PhotoOptions(TypedDict, total=False):
    """What may be said of a photo besides its style. What is left out or None is the server's to choose.

    strength: how much of the style, 0 to 1; the server's default is 1, all of it.
    mask: where to paint: a grey picture of the photo's size, white where the style counts in full, black where the
        photo stays. Passed as the photo is.
    regions: a style for each part of the photo, in place of a style for all of it: names or Paths of pictures to masks,
        {"starry": Path("sky.png"), "wave": Path("sea.png")}, or pairs of a style, or of a style and its weight, and
        its mask. Where masks overlap they share; what none covers stays photo.
    detail: how fine the strokes are, 0.25 to 4; 2 paints them half as wide, 0.5 twice as wide. The server's default
        is 1.
    preserve_color: keep the photo's colours; light and dark alone are the style's.
    long_side: pixels of the painting's longer side, 16 to 8192; by default the photo's own.
    format: png, jpeg or webp; the server's default is png.
    model: which of the server's bundles paints; by default the first.
    """

    strength: float | None
    mask: Picture | None
    regions: Regions | None
    detail: float | None
    preserve_color: bool | None
    long_side: int | None
    format: str | None
    model: str | None


@dataclass(frozen=True)
class StyleContent:
    """Guidance that counts style and content apart: DreamStyler's, Eq. 11 of arXiv 2309.06933.

    ε̂ = ε(∅) + scale·[ε(v) - ε(∅)] + content·[ε(v_c) - ε(∅)] + style·[ε(v) - ε(v_c)]
             + style·[ε(v_s) - ε(∅)] + content·[ε(v) - ε(v_s)]

    v says the prompt and the style, v_c the prompt alone, v_s the style alone, ∅ what the picture should not show. The
    server writes them, so it needs the option `style`. None leaves a factor to the server.

    style: λs, -50 to 50; the server's default is 0.5.
    content: λc, -50 to 50; the server's default is 3.0.
    scale: λn, -50 to 50, how strongly the whole prompt counts; the server's default is 5.0.
    convention: "paper" is the equation as it stands; "code" is the official code's, which halves the terms of style and
        content, and whose default negative prompt asks for quality.
    """

    style: float | None = None
    content: float | None = None
    scale: float | None = None
    convention: Literal["paper", "code"] = "paper"

    kin: ClassVar[str] = "DreamStyler"


@dataclass(frozen=True)
class StyleDrop:
    """Guidance by the difference that an adapter makes: StyleDrop's, Eq. 4 of arXiv 2306.00983.

    l = Ĝ(t) + style_strength·[Ĝ(t) - G(t)] + text_strength·[G(t) - G(n)]

    G is the backbone as it is and Ĝ the backbone with the adapter that the option `style` names, with those of
    `adapters`, or with both. t is the prompt, put into the style adapter's template where it has one, and n is what the
    picture should not show. None leaves a factor to the server.

    style_strength: λA, -50 to 50; the server's default is 2. A large one lets the content of the style's picture leak.
    text_strength: λB, -50 to 50; the server's default is 5.
    """

    style_strength: float | None = None
    text_strength: float | None = None

    rule: ClassVar[str] = "styledrop"


@dataclass(frozen=True)
class Compose:
    """Guidance by two adapters, one of a style and one of a content: §3.4 of arXiv 2306.00983.

    l = (1 - gamma)·l_s + gamma·l_c
    l_s = Ĝs(t) + style_strength·[Ĝs(t) - G(t)] + text_strength·[G(t) - G(n)]
    l_c = Ĝc(c) + style_strength·[Ĝc(c) - G(c)] + text_strength·[G(c) - G(n)]

    Ĝs has the adapter of the option `style` and Ĝc that of the option `content`; it needs both. c is the prompt without
    the words for the style; the rest is as in StyleDrop. None leaves a factor to the server.

    gamma: γ, 0 (style alone) to 1 (content alone); the server's default is 0.5.
    style_strength: λA, -50 to 50; the server's default is 2.
    text_strength: λB, -50 to 50; the server's default is 5.
    content_prompt: c; the prompt itself where the style's adapter has a template, which then holds the words for the
        style; else it must be said.
    """

    gamma: float | None = None
    style_strength: float | None = None
    text_strength: float | None = None
    content_prompt: str | None = None

    rule: ClassVar[str] = "styledrop-compose"


@dataclass(frozen=True)
class NamedGuidance:
    """Any rule that a server has, by the name that it goes by there.

    strengths: by the names of their fields, in lower case; what is left out is the server's to choose.
    """

    rule: str
    strengths: Mapping[str, float | str] = field(default_factory=dict)


Guidance: TypeAlias = StyleContent | StyleDrop | Compose | NamedGuidance | None

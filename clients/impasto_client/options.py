"""The types of a client's options beside the prompt: styles, pictures, guidance, and all options of a photo."""

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

# A photo's style: a name in the server's registry, or a picture whose style is taken.
PhotoStyle: TypeAlias = str | Picture
# Keys are names and Paths. They are Any, since with `str | Path` type checkers would refuse a dict[str, float].
PhotoStyles: TypeAlias = PhotoStyle | Sequence[PhotoStyle | tuple[PhotoStyle, float]] | Mapping[Any, float] | None
Regions: TypeAlias = Sequence[tuple[PhotoStyle | tuple[PhotoStyle, float], Picture]] | Mapping[Any, Picture]


class PhotoOptions(TypedDict, total=False):
    """The options of a photo beside its style. The server chooses those that are left out or None.

    strength: how much of the style, 0 to 1; the server's default is 1.
    mask: where to paint: a grey picture of the photo's size, white where the style has full strength, black where the
        photo stays. It is given as the photo is.
    regions: a style for each part of the photo, instead of one for all of it: a mapping of names or Paths of pictures
        to masks, {"starry": Path("sky.png"), "wave": Path("sea.png")}, or pairs of a style and its mask, where the
        style may be a pair of style and weight. Where masks overlap, styles are mixed; where there is no mask, the
        photo stays.
    detail: how fine the strokes are, 0.25 to 4; 2 paints them half as wide, 0.5 twice as wide. The server's default
        is 1.
    preserve_color: keep the photo's colours; only light and dark change.
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
    """Separate guidance for style and content: DreamStyler's, Eq. 11 of arXiv 2309.06933.

    ε̂ = ε(∅) + scale·[ε(v) - ε(∅)] + content·[ε(v_c) - ε(∅)] + style·[ε(v) - ε(v_c)]
             + style·[ε(v_s) - ε(∅)] + content·[ε(v) - ε(v_s)]

    v describes prompt and style, v_c the prompt alone, v_s the style alone, ∅ what the picture should not show. The
    server writes these texts from the option `style`, which is required. The server chooses factors that are None.

    style: λs, -50 to 50; the server's default is 0.5.
    content: λc, -50 to 50; the server's default is 3.0.
    scale: λn, -50 to 50, how strongly the whole prompt counts; the server's default is 5.0.
    convention: "paper" is the equation above; "code" is the official code's, which halves the terms of style and
        content, and has a default negative prompt for quality.
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

    G is the backbone alone, Ĝ the backbone with the adapter of the option `style`, those of `adapters`, or both. t is
    the prompt, in the style adapter's template if it has one; n is what the picture should not show. The server chooses
    factors that are None.

    style_strength: λA, -50 to 50; the server's default is 2. If it is large, content of the style's picture leaks in.
    text_strength: λB, -50 to 50; the server's default is 5.
    """

    style_strength: float | None = None
    text_strength: float | None = None

    rule: ClassVar[str] = "styledrop"


@dataclass(frozen=True)
class Compose:
    """Guidance by two adapters, one for the style and one for the content: §3.4 of arXiv 2306.00983.

    l = (1 - gamma)·l_s + gamma·l_c
    l_s = Ĝs(t) + style_strength·[Ĝs(t) - G(t)] + text_strength·[G(t) - G(n)]
    l_c = Ĝc(c) + style_strength·[Ĝc(c) - G(c)] + text_strength·[G(c) - G(n)]

    Ĝs has the adapter of the option `style`, Ĝc that of the option `content`; both are required. c is the prompt
    without the words for the style; the rest is as in StyleDrop. The server chooses factors that are None.

    gamma: γ, 0 (style alone) to 1 (content alone); the server's default is 0.5.
    style_strength: λA, -50 to 50; the server's default is 2.
    text_strength: λB, -50 to 50; the server's default is 5.
    content_prompt: c. It is the prompt itself if the style's adapter has a template, which then has the words for the
        style; else it must be given.
    """

    gamma: float | None = None
    style_strength: float | None = None
    text_strength: float | None = None
    content_prompt: str | None = None

    rule: ClassVar[str] = "styledrop-compose"


@dataclass(frozen=True)
class NamedGuidance:
    """Any rule that a server has, by its name there.

    strengths: by their fields' names, in lower case; the server chooses those that are left out.
    """

    rule: str
    strengths: Mapping[str, float | str] = field(default_factory=dict)


Guidance: TypeAlias = StyleContent | StyleDrop | Compose | NamedGuidance | None

"""What may be said of a picture besides the prompt, in the caller's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypedDict

from PIL import Image

Adapters: TypeAlias = Mapping[str, float] | str | None
Style: TypeAlias = str | Sequence[str] | Mapping[str, range] | None
Picture: TypeAlias = bytes | Path | Image.Image | None


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


class Options(TypedDict, total=False):
    """What may be said of a picture besides the prompt. What is left out or None is the server's to choose.

    adapters: names of adapters in the server's registry to weights, -4 to 4; a lone name has the weight 1.
    style: the embedding whose style is painted in, by its name in the registry. To mix styles, a sequence of names, one
        for each stage, of which the first, 0, paints the finest detail and the last the composition; or names to ranges
        of stages, {"sks03": range(0, 3), "sks05": range(3, 6)}, which cover 0, 1, 2, … once each. 64 stages at most.
    negative_prompt: what the picture should not show; "" for nothing, whatever the server's default is.
    steps: denoising steps, 1 to 200.
    guidance_scale: how strongly the prompt counts, 0 to 50; 1 turns guidance off.
    guidance: a StyleContent, which counts style and content apart and has a scale of its own; else guidance_scale is
        all there is. Needs `style`.
    scheduler: ddim, dpmpp_2m, euler or unipc.
    seed: 0 to 2**63-1; the same seed paints the same picture.
    width, height: pixels.
    format: png, jpeg or webp.
    image: the picture to start from: a PNG, JPEG or WebP file, as bytes or as its Path, or a PIL image. It is sent in
        its own size; the server fits it to width and height.
    strength: how far to leave `image` behind, 0 to 1; that share of the steps is run.
    depth: how near everything is, as a grey picture in which near is bright; passed as `image` is.
    control_scale: how strictly the edges of `image` and `depth` are followed, 0 to 2; 0 turns that off.
    """

    adapters: Adapters
    style: Style
    negative_prompt: str | None
    steps: int | None
    guidance_scale: float | None
    guidance: StyleContent | None
    scheduler: str | None
    seed: int | None
    width: int | None
    height: int | None
    format: str | None
    image: Picture
    strength: float | None
    depth: Picture
    control_scale: float | None

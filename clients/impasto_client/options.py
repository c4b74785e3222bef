"""What may be said of a picture besides the prompt, in the caller's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypedDict

from PIL import Image

Adapters: TypeAlias = Mapping[str, float] | str | None
Style: TypeAlias = str | Sequence[str] | Mapping[str, range] | None
Picture: TypeAlias = bytes | Path | Image.Image
Pictures: TypeAlias = Picture | Sequence[Picture]


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


class Options(TypedDict, total=False):
    """What may be said of a picture besides the prompt. What is left out or None is the server's to choose.

    adapters: names of adapters in the server's registry to weights, -4 to 4; a lone name has the weight 1.
    style: the embedding whose style is painted in, by its name in the registry. To mix styles, a sequence of names, one
        for each stage, of which the first, 0, paints the finest detail and the last the composition; or names to ranges
        of stages, {"sks03": range(0, 3), "sks05": range(3, 6)}, which cover 0, 1, 2, … once each. 64 stages at most.
        A request names 16 embeddings at most, those in its prompts counted in. With StyleDrop and Compose it is an
        adapter instead, and a single one.
    content: the adapter whose content is painted, by its name in the registry. Needs Compose.
    negative_prompt: what the picture should not show; "" for nothing, whatever the server's default is.
    steps: denoising steps, 1 to 200.
    guidance_scale: how strongly the prompt counts, 0 to 50; 1 or less turns guidance off.
    guidance: a StyleContent, which counts style and content apart and has a scale of its own, a StyleDrop or a Compose;
        else guidance_scale is all there is. Needs `style`.
    guidance_ramp: let the guidance rise linearly from nothing at the first step to its full strength at the last.
    scheduler: ddim, dpmpp_2m, euler, euler_a, lcm or unipc; of a masked backbone, maskgit or amused.
    temperature: of a masked backbone, 0 to 100: how much chance decides which tokens are kept after each step.
    seed: 0 to 2**63-1; the same seed paints the same picture.
    n: how many candidates to paint, 1 to 16; each is the picture of a seed one higher than that of the one before.
    rerank: "text" sorts the candidates by how well they show the prompt, "style" by how near they come to style_image;
        the best is the first then, and each has a score. Needs a server with a scorer.
    style_image: with rerank "style", the picture to come near to; passed as `image` is.
    width, height: pixels.
    format: png, jpeg or webp.
    image: the picture to start from: a PNG, JPEG or WebP file, as bytes or as its Path, or a PIL image. It is sent in
        its own size; the server fits it to width and height.
    strength: how far to leave `image` behind, 0 to 1; that share of the steps is run, or under lcm all of them over
        that share of the noise.
    depth: how near everything is, as a grey picture in which near is bright; passed as `image` is.
    control_scale: how strictly the edges of `image` and `depth` are followed, 0 to 2; 0 turns that off.
    """

    adapters: Adapters
    style: Style
    content: str | None
    negative_prompt: str | None
    steps: int | None
    guidance_scale: float | None
    guidance: StyleContent | StyleDrop | Compose | None
    guidance_ramp: bool | None
    scheduler: str | None
    temperature: float | None
    seed: int | None
    n: int | None
    rerank: str | None
    style_image: Picture | None
    width: int | None
    height: int | None
    format: str | None
    image: Picture | None
    strength: float | None
    depth: Picture | None
    control_scale: float | None

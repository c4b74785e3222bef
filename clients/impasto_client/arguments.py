"""What can be said on the command line; `words.py` says what it means to a client."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Convention(StrEnum):
    """Of a StyleContent."""

    PAPER = "paper"
    CODE = "code"


class Rule(StrEnum):
    """Of a guidance by adapters."""

    STYLEDROP = "styledrop"
    COMPOSE = "styledrop-compose"


Local = Annotated[bool, typer.Option("--local", help="Paint in this process, without a server.")]
Bundle = Annotated[Path, typer.Option(envvar="IMPASTO_BUNDLE", help="With --local: what `impasto link` made.")]
Url = Annotated[str, typer.Option(envvar="IMPASTO_URL", help="Server's gRPC endpoint, host:port.")]
Timeout = Annotated[float, typer.Option(help="Seconds to wait for a picture; inf for ever.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Adapters = Annotated[
    list[str] | None,
    typer.Option("--adapter", metavar="NAME[:WEIGHT]", help="An adapter of the server's registry; may be repeated."),
]
Style = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[:STAGES]",
        help="Style embedding of the server's registry. To mix them, say which stages each has, the finest detail "
        "first: --style sks03:0-2 --style sks05:3-5. With StyleDrop's guidance it is an adapter.",
    ),
]
Content = Annotated[
    str | None, typer.Option(metavar="NAME", help="The adapter of a content, painted in the style of --style's.")
]
NegativePrompt = Annotated[str | None, typer.Option(help="What the picture should not show.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.")]
GuidanceScale = Annotated[float | None, typer.Option(help="How strongly the prompt counts.")]
StyleGuidance = Annotated[
    float | None, typer.Option(help="With --style: how strongly the style counts, apart from the content.")
]
ContentGuidance = Annotated[
    float | None, typer.Option(help="With --style: how strongly the content counts, apart from the style.")
]
GuidanceConvention = Annotated[
    Convention | None, typer.Option(help="With --style: style and content apart, as DreamStyler's paper or its code.")
]
Guidance = Annotated[
    Rule | None,
    typer.Option(help="By the difference that the adapter of --style makes, StyleDrop's, or that and --content's."),
]
StyleStrength = Annotated[
    float | None, typer.Option(help="With StyleDrop's guidance: how strongly the adapter counts beyond itself.")
]
TextStrength = Annotated[float | None, typer.Option(help="With StyleDrop's guidance: how strongly the prompt counts.")]
Gamma = Annotated[float | None, typer.Option(help="With --content: from 0, style alone, to 1, content alone.")]
ContentPrompt = Annotated[str | None, typer.Option(help="With --content: the prompt without words for the style.")]
GuidanceRamp = Annotated[
    bool | None,
    typer.Option("--guidance-ramp/--no-guidance-ramp", help="Let the guidance grow from the first step to the last."),
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="ddim, dpmpp_2m, euler, euler_a, lcm or unipc; of a masked backbone, maskgit or amused."),
]
Temperature = Annotated[
    float | None, typer.Option(help="Of a masked backbone: how much chance decides which tokens are kept.")
]
Count = Annotated[int | None, typer.Option("--n", help="Candidates to paint, each with a seed one higher.")]
Rerank = Annotated[
    str | None, typer.Option(help="The best candidate first, by the prompt (text) or by --style-image (style).")
]
StyleImageFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", exists=True, dir_okay=False, help="With --rerank style: what to come near to."),
]
Pixels = Annotated[int | None, typer.Option(help="Pixels.")]
ImageFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", exists=True, dir_okay=False, help="Picture to start from: PNG, JPEG or WebP."),
]
Strength = Annotated[float | None, typer.Option(help="With --image: how far to leave it behind, 0 to 1.")]
DepthFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", exists=True, dir_okay=False, help="How near everything is, in grey; near is bright."),
]
ControlScale = Annotated[float | None, typer.Option(help="How strictly --image and --depth are followed, 0 to 2.")]

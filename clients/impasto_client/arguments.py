"""What can be said on the command line, and what it means to a client. Wrong usage is typer.BadParameter."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from impasto_client.errors import InvalidRequest
from impasto_client.options import StyleContent
from impasto_client.stages import names_by_stage

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}

# A name as registries spell it, and at times one stage or the first and the last of several.
_SHARE = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]{0,63})(?::(?P<first>[0-9]{1,4})(?:-(?P<last>[0-9]{1,4}))?)?")


class Convention(str, Enum):
    """Of a StyleContent."""

    PAPER = "paper"
    CODE = "code"


Local = Annotated[bool, typer.Option("--local", help="Paint in this process, without a server.")]
Bundle = Annotated[Path, typer.Option(envvar="IMPASTO_BUNDLE", help="With --local: what `impasto link` made.")]
Url = Annotated[str, typer.Option(envvar="IMPASTO_URL", help="Server's gRPC endpoint, host:port.")]
Timeout = Annotated[float, typer.Option(min=0.001, help="Seconds to wait for a picture.")]
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
        "first: --style sks03:0-2 --style sks05:3-5.",
    ),
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
Scheduler = Annotated[str | None, typer.Option(help="ddim, dpmpp_2m, euler or unipc.")]
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


def weights_of(texts: Sequence[str]) -> dict[str, float]:
    """Of NAME[:WEIGHT], each name once."""
    weights: dict[str, float] = {}
    for text in texts:
        name, colon, weight = text.partition(":")
        if name in weights:
            raise typer.BadParameter(f"{name!r} stands there twice; name it once", param_hint="--adapter")
        weights[name] = _weight(text, weight) if colon else 1.0
    return weights


def style_of(texts: Sequence[str]) -> list[str]:
    """The names for all stages, stage 0 first, of one NAME or of several NAME:FIRST-LAST; none of none."""
    shares = [_share(text) for text in texts]
    if [stages for _, stages in shares] == [None]:
        return [shares[0][0]]
    try:
        return names_by_stage([(name, _said(name, stages)) for name, stages in shares])
    except InvalidRequest as error:
        raise typer.BadParameter(str(error), param_hint="--style") from None


def guidance_of(
    style: float | None, content: float | None, scale: float | None, convention: Convention | None
) -> StyleContent | None:
    """Style and content apart, where any word asks for it; a scale alone doesn't."""
    if style is None and content is None and convention is None:
        return None
    return StyleContent(style, content, scale, "code" if convention is Convention.CODE else "paper")


def format_of(path: Path) -> str:
    """The format of a file by its name, before anything is painted in vain."""
    if path.suffix.lower() not in FORMATS:
        raise typer.BadParameter(f"{path.name!r} does not end in {', '.join(FORMATS)}", param_hint="--out")
    if not path.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}", param_hint="--out")
    return FORMATS[path.suffix.lower()]


def _weight(adapter: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise typer.BadParameter(f"{adapter!r}: {text!r} is no weight; write e.g. NAME:0.9", param_hint="--adapter")
    return weight


def _share(text: str) -> tuple[str, range | None]:
    """Of NAME, NAME:STAGE or NAME:FIRST-LAST; the stages are None where none are said."""
    said = _SHARE.fullmatch(text)
    if said is None:
        fix = "write NAME, or NAME:0-2 for its stages; a name is of a-z, 0-9, '.', '_' and '-'"
        raise typer.BadParameter(f"{text!r} is no style; {fix}", param_hint="--style")
    if said["first"] is None:
        return said["name"], None
    first, last = int(said["first"]), int(said["last"] or said["first"])
    if last < first:
        raise typer.BadParameter(f"{text!r} ends before it begins; write {last}-{first}", param_hint="--style")
    return said["name"], range(first, last + 1)


def _said(name: str, stages: range | None) -> range:
    if stages is None:
        problem = f"{name!r} is not the only style; say which stages it has, e.g. {name}:0-2"
        raise typer.BadParameter(problem, param_hint="--style")
    return stages

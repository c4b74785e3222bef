"""What is said on the command line, as a client takes it. Wrong usage is typer.BadParameter."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import typer

from impasto_client.arguments import Convention, Rule
from impasto_client.errors import InvalidRequest
from impasto_client.options import Compose, StyleContent, StyleDrop
from impasto_client.stages import names_by_stage

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}

# A name as registries spell it, and at times one stage or the first and the last of several.
_SHARE = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]{0,63})(?::(?P<first>[0-9]{1,4})(?:-(?P<last>[0-9]{1,4}))?)?")


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


def style_content_of(
    style: float | None, content: float | None, scale: float | None, convention: Convention | None
) -> StyleContent | None:
    """Style and content apart, where any word asks for it; a scale alone doesn't."""
    if style is None and content is None and convention is None:
        return None
    return StyleContent(style, content, scale, "code" if convention is Convention.CODE else "paper")


def styledrop_of(
    rule: Rule | None,
    style: float | None,
    text: float | None,
    content: str | None,
    gamma: float | None,
    content_prompt: str | None,
) -> StyleDrop | Compose | None:
    """Guidance by adapters, where any word asks for it; a word about the content asks for a composition."""
    shares = (gamma, content_prompt) != (None, None)
    if rule is Rule.STYLEDROP and shares:
        fix = "pass --guidance styledrop-compose, or leave --gamma and --content-prompt out"
        raise typer.BadParameter(f"styledrop is of one adapter; {fix}", param_hint="--guidance")
    if rule is Rule.COMPOSE or (rule is None and (shares or content is not None)):
        return Compose(gamma, style, text, content_prompt)
    if rule is Rule.STYLEDROP or (style, text) != (None, None):
        return StyleDrop(style, text)
    return None


def guidance_of(
    style_content: StyleContent | None, styledrop: StyleDrop | Compose | None
) -> StyleContent | StyleDrop | Compose | None:
    """The one that is asked for."""
    if style_content is not None and styledrop is not None:
        problem = "words for DreamStyler's guidance and for StyleDrop's; leave those for one of them out"
        raise typer.BadParameter(problem, param_hint="--guidance")
    return style_content or styledrop


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

"""Convert command-line words to a client's options. Wrong usage is typer.BadParameter."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import typer

from impasto_client.arguments import CONVENTION
from impasto_client.errors import InvalidRequest
from impasto_client.field import Field, Table
from impasto_client.fields import Options
from impasto_client.options import NamedGuidance
from impasto_client.stages import names_by_stage

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}

# A registry's name, and maybe a stage, or a first and a last stage.
_SHARE = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]{0,63})(?::(?P<first>[0-9]{1,4})(?:-(?P<last>[0-9]{1,4}))?)?")


def weights_of(texts: Sequence[str]) -> dict[str, float]:
    """Names and weights from NAME[:WEIGHT], each name once."""
    weights: dict[str, float] = {}
    for text in texts:
        name, colon, weight = text.partition(":")
        if name in weights:
            raise typer.BadParameter(f"{name!r} is named twice; name it once", param_hint="--adapter")
        weights[name] = _weight(text, weight) if colon else 1.0
    return weights


def style_of(texts: Sequence[str]) -> list[str]:
    """The names for all stages, stage 0 first, from one NAME or several NAME:FIRST-LAST."""
    shares = [_share(text) for text in texts]
    if [stages for _, stages in shares] == [None]:
        return [shares[0][0]]
    try:
        return names_by_stage([(name, _said(name, stages)) for name, stages in shares])
    except InvalidRequest as error:
        raise typer.BadParameter(str(error), param_hint="--style") from None


def options_of(said: Mapping[str, Any], table: Table) -> Options:
    """A client's options from the command line's values `said`, by the table's words."""
    guidance = guidance_of(said, table)
    taken = {} if guidance is None else {"guidance": guidance}
    gone = {"guidance", CONVENTION, *(() if guidance is None else guidance.strengths)}
    rest = {word: value for word, value in said.items() if word not in gone}
    if "adapters" in rest:
        rest["adapters"] = weights_of(rest["adapters"])
    if "style" in rest:
        rest["style"] = style_of(rest["style"])
    return cast(Options, {**rest, **taken})


def guidance_of(said: Mapping[str, Any], table: Table) -> NamedGuidance | None:
    """The rule that is asked for: by its name, or by options that it knows and the default rule doesn't. None for the
    default rule."""
    usual, *others = table.rules
    named, convention = said.get("guidance"), said.get(CONVENTION)
    telling = [
        field
        for field in table.fields
        if field.word in said
        and any(field.name in rule.takes for rule in others)
        and field.name not in usual.takes
        and not (named and field.option)  # the server refuses options that a named rule doesn't use
    ]
    rules = [rule for rule in others if convention is None or rule.convention == convention]
    rules = [rule for rule in rules if named is None or rule.name == named]
    for field in telling:
        left = [rule for rule in rules if field.name in rule.takes]
        if not left:
            raise _apart(field, named, convention, telling, table)
        rules = left
    if not (telling or named or convention):
        return None
    if not rules:
        raise _apart(None, named, convention, telling, table)
    words = {name.lower() for name in rules[0].fields.values()}
    return NamedGuidance(rules[0].name, {word: value for word, value in said.items() if word in words})


def _apart(
    field: Field | None, named: str | None, convention: str | None, telling: Sequence[Field], table: Table
) -> typer.BadParameter:
    """The error for options that no rule takes together."""
    if field is not None and named is not None:
        knowing = " or ".join(rule.name for rule in table.rules if field.name in rule.takes)
        problem = f"{named} doesn't use {field.flag}; pass --guidance {knowing}, or leave {field.flag} out"
    else:
        flags = [one.flag for one in telling]
        flags += ["--guidance-convention"] if convention else []
        flags += ["--guidance"] if named else []
        problem = f"{', '.join(flags)} belong to different guidance rules; keep those of one"
    return typer.BadParameter(problem, param_hint="--guidance")


def format_of(path: Path) -> str:
    """The format of a file by its name, checked before anything is painted in vain."""
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
        raise typer.BadParameter(f"{adapter!r}: {text!r} is not a weight; write e.g. NAME:0.9", param_hint="--adapter")
    return weight


def _share(text: str) -> tuple[str, range | None]:
    """Name and stages from NAME, NAME:STAGE or NAME:FIRST-LAST; the stages are None if none are given."""
    said = _SHARE.fullmatch(text)
    if said is None:
        fix = "write NAME, or NAME:0-2 for its stages; a name has only a-z, 0-9, '.', '_' and '-'"
        raise typer.BadParameter(f"{text!r} is not a style; {fix}", param_hint="--style")
    if said["first"] is None:
        return said["name"], None
    first, last = int(said["first"]), int(said["last"] or said["first"])
    if last < first:
        raise typer.BadParameter(f"{text!r} ends before it begins; write {last}-{first}", param_hint="--style")
    return said["name"], range(first, last + 1)


def _said(name: str, stages: range | None) -> range:
    if stages is None:
        problem = f"{name!r} is not the only style; give its stages, e.g. {name}:0-2"
        raise typer.BadParameter(problem, param_hint="--style")
    return stages

"""The command `impasto show`: what a picture's file says of how it was painted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from impasto_client import a1111
from impasto_client import arguments as arg
from impasto_client.connection import reported, visible
from impasto_client.mark import harmless
from impasto_client.marks import Found, Mark, found_in
from impasto_client.picture import file_bytes

_LONG = 12  # digits of a digest that are shown
_NOTHING: tuple[Any, ...] = (None, "", [], {})


def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="PNG, JPEG or WebP.")],
    as_json: arg.AsJson = False,
) -> None:
    """Show how a picture was painted: what its file says, whoever wrote that.

    Only a signature could prove it; this command doesn't check one.
    """
    console = Console(highlight=False)
    with reported(Console(stderr=True, highlight=False)):
        found = found_in(file_bytes("FILE", file))
    if as_json:
        typer.echo(harmless(json.dumps(document(found), indent=2, ensure_ascii=False)))
    elif found.mark is not None:
        console.print(_table(_lines(found.mark, found.source)))
    elif found.parameters is not None and a1111.read(found.parameters).settings:
        console.print(escape(f"{file}: has no mark of impasto, but text in the words of A1111"), soft_wrap=True)
        console.print(_table(_foreign(found.parameters)))
    else:
        console.print(escape(f"{file}: has no mark; nothing in it says how it was made"), soft_wrap=True)
    if not as_json and found.signed:
        console.print("It has a C2PA manifest, which was not checked here.")


def document(found: Found) -> dict[str, Any]:
    """All marks of a file, JSON-ready; None where one is missing."""
    return {
        "mark": None if found.mark is None else asdict(found.mark),
        "parameters": found.parameters,
        "digital_source_type": found.source,
        "manifest": found.signed,
    }


def _table(lines: Iterator[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines:
        table.add_row(escape(visible(name)), escape(visible(text)))
    return table


def _lines(mark: Mark, source: str | None) -> Iterator[tuple[str, str]]:
    """What was asked, then what the server used beside that, then by what."""
    for word, value in mark.request.items():
        if word != "adapters":
            yield word, _said(value)
    if "prompt" in mark.request and mark.request.get("seed") != mark.seed:
        yield "this picture's seed", str(mark.seed)
    for one in mark.adapters:
        weight = "" if one.kind == "embedding" else f" x {one.weight:g}"
        yield one.kind, f"{one.name}{weight}  ({one.digest[:_LONG]})"
    for name, value in mark.settings.items():
        if name not in mark.request and value not in _NOTHING:
            yield name, _said(value)
    yield "bundle", f"{mark.bundle}  ({mark.digest[:_LONG]})"
    yield "painted by", f"{mark.tool}, {mark.engine}, {mark.precision}"
    if mark.check:
        yield "changed by", mark.check
    if source:
        yield "digital source type", source


def _foreign(text: str) -> Iterator[tuple[str, str]]:
    said = a1111.read(text)
    yield "prompt", said.prompt
    if said.negative:
        yield "negative prompt", said.negative
    yield from said.settings.items()


def _said(value: Any) -> str:
    if isinstance(value, Mapping) and "sha256" in value:
        return f"a picture  ({str(value['sha256'])[:_LONG]})"
    if isinstance(value, list):
        return ", ".join(map(_said, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else str(value)

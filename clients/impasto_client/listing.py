"""The command `impasto models`: list what a server has."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from impasto_client import arguments as arg
from impasto_client.catalogue import Adapter, Bundle, Catalogue
from impasto_client.client import DEFAULT_TIMEOUT_S, DEFAULT_URL
from impasto_client.connection import connected, reported


def models(
    ctx: typer.Context,
    as_json: arg.AsJson = False,
    url: arg.Url = DEFAULT_URL,
    timeout: arg.Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """List what a server has: its bundles, their samplers and rules, and the styles that fit them."""
    notes = Console(stderr=True, highlight=False)
    with reported(notes), connected(ctx, url, timeout) as client:
        found = client.catalogue()
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
        return
    out = Console(highlight=False)
    out.print(_bundles(found))
    if found.adapters:
        out.print(_adapters(found.adapters))
    for one in found.unread:
        notes.print(f"[yellow]warning[/]  {escape(one.problem)}", soft_wrap=True)


def _bundles(found: Catalogue) -> Table:
    table = _table("model", "family", "size", "samplers", "guidance", "control")
    table.columns[4].no_wrap = True
    for bundle in found.bundles:
        name = f"{bundle.name} (default)" if bundle.name == found.default else bundle.name
        guidance = "\n".join(rule.name for rule in bundle.rules)
        table.add_row(*_cells(name, bundle.family, _size(bundle), bundle.samplers, guidance, bundle.control))
    return table


def _adapters(adapters: Iterable[Adapter]) -> Table:
    table = _table("style", "kind", "words", "fits")
    for one in adapters:
        words = " · ".join(said for said in (one.trigger, one.prompt) if said)
        kind = one.kind if len(one.adapts) < 2 else f"{one.kind} pair"
        table.add_row(*_cells(one.name, kind, words, one.fits or "no bundle of this server"))
    return table


def _table(*columns: str) -> Table:
    """A table that wraps long names instead of cutting them, since users have to type them."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _cells(*values: str | Iterable[str]) -> list[str]:
    return [escape(value if isinstance(value, str) else ", ".join(value)) for value in values]


def _size(bundle: Bundle) -> str:
    width, height = bundle.size.width, bundle.size.height
    base = f" (base {width // bundle.zoom} x {height // bundle.zoom})" if bundle.zoom > 1 else ""
    return f"{width} x {height}{base}"

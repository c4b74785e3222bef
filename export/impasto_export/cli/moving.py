"""The commands `impasto push` and `impasto pull`: bundles to and from an object store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from impasto_export import progress, transfer
from impasto_export.cli.printed import AsJson, reported, show
from impasto_export.stores import Store

STORE_HELP = "Where the bundle lies: s3://bucket/name, gs://…, az://…, {}or a folder."


def push(
    bundle: Annotated[Path, typer.Argument(help="A folder that `impasto link` made.")],
    to: Annotated[str, typer.Argument(metavar="URL", help=STORE_HELP.format(""))],
    as_json: AsJson = False,
) -> None:
    """Write a bundle into an object store, with a list of its files and their digests, for `impasto pull`."""
    with reported():
        store = Store.anywhere(to)
        store.check_writable()
        files = transfer.listed(bundle)
        with progress.moving(f"pushing {bundle.name}", sum(file.nbytes for file in files.values())) as advance:
            moved = transfer.push(bundle, store, files, advance)
        show(as_json, {"bundle": to, **asdict(moved)}, _told(f"{to}", moved, "sent"))


def pull(
    source: Annotated[str, typer.Argument(metavar="URL", help=STORE_HELP.format("https://…, "))],
    out: Annotated[Path, typer.Option("--out", help="Folder for the bundle; it appears when all of it is there.")],
    as_json: AsJson = False,
) -> None:
    """Get a bundle that `impasto push` wrote. Run it again after an interruption: it goes on where it was."""
    with reported():
        store = Store.anywhere(source)
        digest, files = transfer.index(store)
        total = sum(file.nbytes for file in files.values())
        if transfer.holds(out, digest, files):
            moved = transfer.Moved(digest, total, 0)
        else:
            with progress.moving(f"pulling {out.name}", total) as advance:
                moved = transfer.pull(store, out, digest, files, advance)
        show(as_json, {"bundle": str(out), **asdict(moved)}, _told(str(out), moved, "came"))


def _told(place: str, moved: transfer.Moved, verb: str) -> str:
    return f"{place}: {moved.digest[:12]}, {moved.nbytes / 1e6:.1f} MB, of which {moved.sent / 1e6:.1f} MB {verb}"

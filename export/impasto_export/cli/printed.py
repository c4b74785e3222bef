"""Shared by the commands: options, and how results and errors are printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Optional

import typer

from impasto_export.adapters.bucket import Bucket
from impasto_export.adapters.registry import ENVIRONMENT, AnyRegistry, Registry, default_place
from impasto_export.errors import ExportError
from impasto_export.stores import Store, is_address

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
# Optional[...], not `| None`: typer evaluates annotations at run time, also on Python 3.10.
RegistryOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--registry",
        metavar="DIR|URL",
        help="Registry: a folder, or s3://…, gs://…, az://…, and to read https://…; "
        f"default ${ENVIRONMENT}, else ~/.local/share/impasto/registry.",
    ),
]


@contextmanager
def reported() -> Iterator[None]:
    """Print errors that the user can act on to stderr, without a traceback; exit status 1."""
    try:
        yield
    except ExportError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        typer.echo(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}", err=True)
        raise typer.Exit(1) from None


def show(as_json: bool, document: object, *lines: str) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str) if as_json else "\n".join(lines))


def registry_in(place: str | None) -> AnyRegistry:
    """The registry at this place. Raises StoreError for an address that can't be opened."""
    place = place or default_place()
    return Bucket(Store.at(place)) if is_address(place) else Registry(Path(place))

"""Shared by all commands: connect a client, print errors and warnings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from impasto_client.client import Client
from impasto_client.errors import ImpastoError
from impasto_client.local import LocalTransport
from impasto_client.transport import Transport
from impasto_client.triton import GrpcTransport


@dataclass(frozen=True)
class Connection:
    """How a command reaches a server by its url; tests pass another one as the context's `obj`."""

    open: Callable[[str], Transport]


def connected(ctx: typer.Context, url: str, timeout: float, bundle: Path | None = None) -> Client:
    """A client of the server at `url`, or, given a bundle, of this very process.

    Raises InvalidRequest for a bad timeout, ConnectError for a bad url, ServerError for a bad bundle.
    """
    return Client(transport=transport_to(ctx, url, bundle), timeout=timeout)


def transport_to(ctx: typer.Context, url: str, bundle: Path | None = None) -> Transport:
    """The transport of such a client. Raises ConnectError for a bad url, ServerError for a bad bundle."""
    connection = ctx.find_object(Connection) or Connection(GrpcTransport)
    return connection.open(url) if bundle is None else LocalTransport(bundle)


@contextmanager
def reported(console: Console) -> Iterator[None]:
    """Print an error of the client, the server or the file system as one line; exit status 1."""
    try:
        yield
    except (ImpastoError, OSError) as error:
        console.print(f"[bold red]error[/]  {escape(visible(str(error)))}", soft_wrap=True)
        raise typer.Exit(1) from None


def visible(text: str) -> str:
    """Without characters that would move a terminal's cursor, or change its colours."""
    return "".join(one if one.isprintable() or one == "\n" else "\ufffd" for one in text)


def print_warnings(console: Console, warnings: Sequence[str]) -> None:
    """Print a line for each warning."""
    for warning in warnings:
        console.print(f"[yellow]warning[/]  {escape(warning)}", soft_wrap=True)

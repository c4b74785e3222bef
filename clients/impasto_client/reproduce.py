"""The command `impasto reproduce`: paint a picture again from its file, and compare."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from impasto_client import arguments as arg
from impasto_client.client import DEFAULT_TIMEOUT_S, DEFAULT_URL
from impasto_client.connection import reported, transport_to, visible
from impasto_client.errors import MarkError
from impasto_client.marks import Mark, read
from impasto_client.patience import limit_s
from impasto_client.picture import file_bytes
from impasto_client.reproduction import Outcome, catalogue_of, obstacles, repainted
from impasto_client.transport import Transport
from impasto_client.words import format_of

DIFFERS = 3  # exit status


def reproduce(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="The picture.")],
    out: Annotated[Path | None, typer.Option(help="File to write the new picture to, with its marks.")] = None,
    pictures: Annotated[
        list[Path] | None,
        typer.Option(
            "--picture",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="A picture that was sent with the request, unchanged; may be repeated.",
        ),
    ] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Paint even if bundle or adapters are others.")] = False,
    as_json: arg.AsJson = False,
    local: arg.Local = False,
    bundle: arg.Bundle = Path(".impasto/bundle"),
    url: arg.Url = DEFAULT_URL,
    timeout: arg.Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Paint a picture again from its file's mark, and say whether it is identical.

    The server's bundle and adapters are compared first, by digest. Exit status: 0 if the picture is the same, 3 if it
    is not, 1 if it could not be painted.
    """
    if out is not None:
        format_of(out)
    console = Console(stderr=True, highlight=False)
    with reported(console):
        old = file_bytes("FILE", file)
        mark = _mark(file, old)
        sent = [file_bytes("IMAGE", picture) for picture in pictures or ()]
        with closing(transport_to(ctx, url, bundle if local else None)) as transport:
            others = _others(transport, mark, limit_s(timeout), anyway)
            with console.status("painting it again"):
                outcome = repainted(transport, mark, old, sent, limit_s(timeout))
        if out is not None:
            out.write_bytes(outcome.data)
    _tell(file, out, outcome, others, as_json)


def _mark(file: Path, data: bytes) -> Mark:
    mark = read(data)
    if mark is None:
        raise MarkError(f"{file}: has no mark of impasto, so nobody knows how it was painted")
    return mark


def _others(transport: Transport, mark: Mark, timeout_s: float | None, anyway: bool) -> list[str]:
    """What the server has otherwise. Raises MarkError for it, unless it shall be painted anyway."""
    found = obstacles(mark, catalogue_of(transport, timeout_s))
    if found and not anyway:
        problem = ". ".join(found)
        raise MarkError(f"this server can't paint the same. {problem}. To paint with what there is: --anyway")
    return found


def _tell(file: Path, out: Path | None, outcome: Outcome, others: Sequence[str], as_json: bool) -> None:
    """Print the verdict. Raises typer.Exit unless the picture is the same."""
    differences = [*others, *outcome.differences]
    if as_json:
        said = {"file": str(file), "out": None if out is None else str(out)}
        verdict = {"identical": outcome.identical, "same_picture": outcome.same_picture, "differences": differences}
        typer.echo(json.dumps(said | verdict, indent=2))
    else:
        console = Console(highlight=False)
        console.print(f"{_VERDICTS[outcome.identical, outcome.same_picture]}  {escape(str(file))}", soft_wrap=True)
        for line in differences:
            console.print(f"  {escape(visible(line))}", soft_wrap=True)
        if not outcome.same_picture and len(differences) == 1:
            console.print(f"  {_UNEXPLAINED}", soft_wrap=True)
    if not outcome.same_picture:
        raise typer.Exit(DIFFERS)


_VERDICTS = {
    (True, True): "[bold green]identical[/], every byte",
    (False, True): "[bold green]identical[/], but not what stands beside the picture",
    (False, False): "[bold red]not identical[/]",
}
_UNEXPLAINED = (
    "Nothing else that the mark tells differs. Another processor, another number of threads, or other requests in the "
    "same batch round otherwise."
)

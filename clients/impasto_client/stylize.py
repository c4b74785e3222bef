"""The command `impasto stylize`: paint photos, folders of photos, and clips."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from impasto_client import arguments as arg
from impasto_client import photo_words as say
from impasto_client.album import Job, jobs_of
from impasto_client.bar import counting
from impasto_client.client import DEFAULT_TIMEOUT_S, DEFAULT_URL
from impasto_client.connection import connected, print_warnings, reported
from impasto_client.easel import Done, Easel
from impasto_client.patience import limit_s
from impasto_client.video.film import IN_FLIGHT, SMOOTH


class Format(StrEnum):
    """The formats, named as on the wire."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


def stylize(
    ctx: typer.Context,
    photos: Annotated[
        list[Path],
        typer.Argument(metavar="PHOTO...", exists=True, help="PNG, JPEG, WebP, clips, or folders of them."),
    ],
    style: say.Style = None,
    style_image: say.StyleImage = None,
    strength: say.Strength = None,
    mask: say.Mask = None,
    detail: say.Detail = None,
    preserve_color: say.PreserveColor = False,
    long_side: say.LongSide = None,
    format: Annotated[
        Format | None, typer.Option(help="Format of the paintings.", show_default="the photo's own")
    ] = None,
    smooth: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Clips: how much of the last painting is kept, against flicker.", show_default="0.8"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write, or a folder for several.", show_default="PHOTO-STYLE.png and so on"),
    ] = None,
    in_flight: Annotated[int, typer.Option(min=1, max=64, help="Photos or frames to ask for at a time.")] = IN_FLIGHT,
    model: say.Model = None,
    as_json: arg.AsJson = False,
    local: arg.Local = False,
    bundle: arg.Bundle = Path(".impasto/bundle"),
    url: arg.Url = DEFAULT_URL,
    timeout: arg.Timeout = DEFAULT_TIMEOUT_S,
    metadata: arg.Metadata = True,
) -> None:
    """Paint photos in a style, or in a mix of styles. A failure doesn't stop the others; the exit status is then 1.

    A clip is painted frame by frame, and keeps its sound. That needs the extra `video`.
    """
    said = {"strength": strength, "detail": detail, "long_side": long_side, "model": model}
    wish = say.wish_of(style, style_image, mask, said | {"preserve_color": preserve_color or None})
    jobs = jobs_of(photos, out, wish.label, format)
    _check_meant(jobs, smooth, format)
    console = Console(stderr=True, highlight=False)
    with reported(console), connected(ctx, url, timeout, bundle if local else None) as client, counting(console) as bar:
        easel = Easel(client, wish, in_flight, SMOOTH if smooth is None else smooth, limit_s(timeout), metadata)
        done = [*easel.photos([job for job in jobs if not job.is_clip], bar)]
        done += [easel.clip(job, bar) for job in jobs if job.is_clip]
    _tell(done, console, as_json)


def _check_meant(jobs: Sequence[Job], smooth: float | None, format: str | None) -> None:
    """Raises typer.BadParameter for an option that would have no effect."""
    if smooth is not None and not any(job.is_clip for job in jobs):
        raise typer.BadParameter("is for clips, but there is none; leave it out", param_hint="--smooth")
    if format is not None and all(job.is_clip for job in jobs):
        raise typer.BadParameter("is for photos, but there is none; leave it out", param_hint="--format")


def _tell(done: Sequence[Done], console: Console, as_json: bool) -> None:
    """Print files, warnings and errors. Raises typer.Exit if any failed."""
    failed = [one for one in done if one.error is not None]
    warnings = dict.fromkeys(text for one in done for text in one.warnings)
    print_warnings(console, list(warnings))
    if as_json:
        typer.echo(json.dumps([one.document() for one in done], indent=2))
    else:
        typer.echo("".join(f"{one.job.out}\n" for one in done if one.error is None), nl=False)
    for error, sources in _by_error(failed).items():
        console.print(f"[bold red]error[/]  {escape(', '.join(sources))}: {escape(error)}", soft_wrap=True)
    if failed:
        console.print(f"{len(failed)} of {len(done)} failed")
        raise typer.Exit(1)


def _by_error(failed: Sequence[Done]) -> Mapping[str, list[str]]:
    """Error -> the files that it concerns, so that each error is printed once."""
    found: dict[str, list[str]] = {}
    for one in failed:
        found.setdefault(str(one.error), []).append(str(one.job.source))
    return found

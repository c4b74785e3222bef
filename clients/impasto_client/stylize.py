"""`impasto stylize`: photos, folders of photos, and clips."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as Bar

from impasto_client import arguments as arg
from impasto_client import photo_words as say
from impasto_client.album import Job, jobs_of
from impasto_client.bar import counting
from impasto_client.client import DEFAULT_TIMEOUT_S, DEFAULT_URL, Client
from impasto_client.connection import connected, print_warnings, reported
from impasto_client.errors import (
    AdapterNotFound,
    ConnectError,
    ImpastoError,
    MissingExtra,
    RequestError,
    ServerUnavailable,
)
from impasto_client.order import in_order
from impasto_client.painting import Painting
from impasto_client.patience import limit_s, until_room
from impasto_client.photo_words import Wish
from impasto_client.video.extra import extra
from impasto_client.video.film import IN_FLIGHT, SMOOTH

_THE_PHOTOS = (
    None,
    "IMAGE",
    "MASKS",
    "DETAIL",
    "LONG_SIDE",
    "CLIP",
)  # fields that other photos may have no quarrel with


class Format(StrEnum):
    """As the wire has them."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


@dataclass(frozen=True)
class Done:
    """What became of one: its painting, None of a clip, or what went wrong."""

    job: Job
    painting: Painting | None = None
    error: Exception | None = None

    def document(self) -> dict[str, Any]:
        """For --json."""
        if self.error is not None:
            return {"photo": str(self.job.source), "error": str(self.error)}
        found: dict[str, Any] = {"photo": str(self.job.source), "out": str(self.job.out)}
        if self.painting is not None:
            found |= {"timings": asdict(self.painting.timings), "warnings": list(self.painting.warnings)}
            found["meta"] = dict(self.painting.meta)
        return found


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
    format: Annotated[Format | None, typer.Option(help="Of paintings.", show_default="the photo's own")] = None,
    smooth: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Of a clip: how much of the painting before stays, against flicker.", show_default="0.8"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write, or folder for several.", show_default="PHOTO-STYLE.png and so on"),
    ] = None,
    in_flight: Annotated[int, typer.Option(min=1, max=64, help="Photos or frames to ask for at a time.")] = IN_FLIGHT,
    model: say.Model = None,
    as_json: arg.AsJson = False,
    local: arg.Local = False,
    bundle: arg.Bundle = Path(".impasto/bundle"),
    url: arg.Url = DEFAULT_URL,
    timeout: arg.Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Paint photos in a style, or in a mix of them. One that fails doesn't stop the others; the exit status is 1 then.

    A clip is painted frame by frame, its sound stays. This needs the extra `video`.
    """
    said = {"strength": strength, "detail": detail, "long_side": long_side, "model": model}
    wish = say.wish_of(style, style_image, mask, said | {"preserve_color": preserve_color or None})
    jobs = jobs_of(photos, out, wish.label, format)
    _check_meant(jobs, smooth, format)
    console = Console(stderr=True, highlight=False)
    with reported(console), connected(ctx, url, timeout, bundle if local else None) as client, counting(console) as bar:
        easel = Easel(client, wish, in_flight, SMOOTH if smooth is None else smooth, limit_s(timeout))
        done = [*easel.photos([job for job in jobs if not job.is_clip], bar)]
        done += [easel.clip(job, bar) for job in jobs if job.is_clip]
    _tell(done, console, as_json)


def _check_meant(jobs: Sequence[Job], smooth: float | None, format: str | None) -> None:
    """Nothing is said in vain."""
    if smooth is not None and not any(job.is_clip for job in jobs):
        raise typer.BadParameter("is for clips, and there is none; leave it out", param_hint="--smooth")
    if format is not None and all(job.is_clip for job in jobs):
        raise typer.BadParameter("is for photos, and there is none; leave it out", param_hint="--format")


@dataclass(frozen=True)
class Easel:
    """Where one after the other is painted as the wish says."""

    client: Client
    wish: Wish
    in_flight: int
    smooth: float
    limit_s: float | None

    def photos(self, jobs: Sequence[Job], bar: Bar) -> Iterator[Done]:
        """In their order, several in flight. Raises ImpastoError for what would befall all of them."""
        if not jobs:
            return
        task = bar.add_task("painting", total=len(jobs))
        with closing(in_order(jobs, self._photo, self.in_flight)) as done:
            for one in done:
                bar.advance(task)
                yield one

    def clip(self, job: Job, bar: Bar) -> Done:
        """Raises ImpastoError for what would befall others, too."""
        task = bar.add_task(escape(job.source.name), total=None)

        def paint(frames: Iterator[Any]) -> Iterator[Any]:
            options: Any = self.wish.options
            film = self.client.stylize_frames(
                frames, self._styles, smooth=self.smooth, in_flight=self.in_flight, **options
            )
            with closing(film):
                for frame in film:
                    bar.advance(task)
                    yield frame

        try:
            with extra("a clip"):
                from impasto_client.video.clip import repaint
            repaint(job.source, job.out, paint, lambda count: bar.update(task, total=count))
        except (ImpastoError, OSError) as error:
            return _failed(job, error)
        return Done(job)

    @property
    def _styles(self) -> Any:
        return self.wish.styles or None

    def _photo(self, job: Job) -> Done:
        options: Any = self.wish.options

        def ask() -> Painting:
            return self.client.stylize(job.source, self._styles, format=job.format, **options)

        try:
            painting = until_room(ask, self.limit_s)
            job.out.write_bytes(painting.data)
        except (ImpastoError, OSError) as error:
            return _failed(job, error)
        return Done(job, painting)


def _failed(job: Job, error: Exception) -> Done:
    """Raises `error` where it would befall others, too."""
    everybodys = isinstance(error, AdapterNotFound | ConnectError | MissingExtra | ServerUnavailable)
    if everybodys or (isinstance(error, RequestError) and error.field not in _THE_PHOTOS):
        raise error
    return Done(job, error=error)


def _tell(done: Sequence[Done], console: Console, as_json: bool) -> None:
    """Raises typer.Exit where one failed."""
    failed = [one for one in done if one.error is not None]
    warnings = dict.fromkeys(text for one in done if one.painting is not None for text in one.painting.warnings)
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
    """So that what befell many is said once."""
    found: dict[str, list[str]] = {}
    for one in failed:
        found.setdefault(str(one.error), []).append(str(one.job.source))
    return found

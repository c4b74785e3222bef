"""The command `impasto sheet`: paint photos in every style that fits a bundle, or in named ones, on one sheet."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image, ImageOps
from rich.console import Console

from impasto_client import arguments as arg
from impasto_client import photo_words as say
from impasto_client.bar import counting
from impasto_client.catalogue import Bundle, Catalogue
from impasto_client.client import DEFAULT_TIMEOUT_S, DEFAULT_URL, Client
from impasto_client.connection import connected, print_warnings, reported
from impasto_client.errors import InvalidRequest
from impasto_client.options import PhotoOptions
from impasto_client.order import in_order
from impasto_client.painting import Painting
from impasto_client.patience import limit_s, until_room
from impasto_client.styles import Share
from impasto_client.tiling import Tile, grid, tiled
from impasto_client.video.film import IN_FLIGHT
from impasto_client.words import format_of

CELL, SIDE = 256, 512  # pixels of a picture's longer side: on the sheet, and when painted
MOST = 64
QUALITY = 88  # of a JPEG or WebP
VECTOR = "vector"  # the kind of adapter for photos


@dataclass(frozen=True)
class Column:
    """A column: a style, or a mix that is pinned in the bundle."""

    label: str
    styles: tuple[Share, ...]


def sheet(
    ctx: typer.Context,
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTO...", exists=True, dir_okay=False, help="PNG, JPEG or WebP.")
    ],
    style: say.Style = None,
    style_image: say.StyleImage = None,
    strength: say.Strength = None,
    detail: say.Detail = None,
    preserve_color: say.PreserveColor = False,
    cell: Annotated[int, typer.Option(min=16, max=2048, help="Pixels of a picture's longer side on the sheet.")] = CELL,
    long_side: Annotated[
        int | None, typer.Option(help="The same when painted.", show_default=f"{SIDE}, or --cell if that's more")
    ] = None,
    out: Annotated[Path, typer.Option(help="File to write: .png, .jpg or .webp.")] = Path("sheet.png"),
    model: say.Model = None,
    as_json: arg.AsJson = False,
    local: arg.Local = False,
    bundle: arg.Bundle = Path(".impasto/bundle"),
    url: arg.Url = DEFAULT_URL,
    timeout: arg.Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Paint photos in every style that fits, or in each --style, on one sheet.

    Each of several photos has a row.
    """
    format_of(out)
    if out.exists() and any(out.samefile(photo) for photo in photos):
        raise typer.BadParameter(f"{str(out)!r} is a photo to paint; choose another file", param_hint="--out")
    side = max(SIDE, cell) if long_side is None else long_side
    options: Any = {"strength": strength, "detail": detail, "long_side": side, "model": model}
    options["preserve_color"] = preserve_color or None
    said = [Column(say.label_of([one.style]), (one,)) for one in say.shares_of(style, style_image)]
    console = Console(stderr=True, highlight=False)
    with reported(console), connected(ctx, url, timeout, bundle if local else None) as client, counting(console) as bar:
        columns = said or columns_of(client.catalogue(), model)
        task = bar.add_task("painting", total=len(photos) * len(columns))
        paintings: list[Painting] = []
        with closing(painted(client, photos, columns, options, limit_s(timeout))) as done:
            for painting in done:
                paintings.append(painting)
                bar.advance(task)
        tiled(_laid(photos, columns, paintings), cell).save(out, quality=QUALITY)
    print_warnings(console, list(dict.fromkeys(text for one in paintings for text in one.warnings)))
    names = [column.label for column in columns]
    typer.echo(json.dumps({"out": str(out), "styles": names}) if as_json else str(out))


def columns_of(found: Catalogue, model: str | None) -> list[Column]:
    """Every style that fits the bundle, by its name, then its mixes.

    Raises InvalidRequest where there is none, and where there are too many for a sheet.
    """
    bundle = _bundle(found, model or found.default)
    names = sorted(one.name for one in found.adapters if one.kind == VECTOR and bundle.name in one.fits)
    mixes = [tuple(Share(one.name, one.weight) for one in mix) for mix in bundle.pinned]
    columns = [Column(name, (Share(name),)) for name in names]
    columns += [Column(_mixed(mix), mix) for mix in mixes]
    if not columns:
        fix = "import one with `impasto adapters import`, or pass another --model; `impasto models` lists them"
        raise InvalidRequest(f"MODEL: {bundle.name!r} has no styles for photos; {fix}", "MODEL")
    if len(columns) > MOST:
        fix = f"a sheet holds {MOST}; choose some with --style"
        raise InvalidRequest(f"MODEL: {bundle.name!r} has {len(columns)} styles; {fix}", "MODEL")
    return columns


def painted(
    client: Client, photos: Sequence[Path], columns: Sequence[Column], options: PhotoOptions, limit: float | None
) -> Generator[Painting, None, None]:
    """Paint each photo in each column, row by row, several in flight. Raises the first ImpastoError."""

    def ask(cell: tuple[Path, Column]) -> Painting:
        photo, column = cell
        return until_room(lambda: client.stylize(photo, say.styles_of(column.styles), **options), limit)

    return in_order(((photo, column) for photo in photos for column in columns), ask, IN_FLIGHT)


def _laid(photos: Sequence[Path], columns: Sequence[Column], paintings: Sequence[Painting]) -> list[list[Tile]]:
    """For one photo a grid, each tile with its label; for several a row each, with labels above the first row.

    Raises OSError for a photo that can't be decoded.
    """
    labels, each = [column.label for column in columns], len(columns)
    pictures = [one.image for one in paintings]
    rows = [[_upright(photo), *pictures[i * each : (i + 1) * each]] for i, photo in enumerate(photos)]
    if len(photos) == 1:
        return grid([Tile(one, label) for one, label in zip(rows[0], [photos[0].name, *labels], strict=True)])
    head = [Tile(one, label) for one, label in zip(rows[0], ["", *labels], strict=True)]
    return [head, *([Tile(one) for one in row] for row in rows[1:])]


def _upright(photo: Path) -> Image.Image:
    with Image.open(photo) as opened:
        return ImageOps.exif_transpose(opened)


def _bundle(found: Catalogue, name: str) -> Bundle:
    for bundle in found.bundles:
        if bundle.name == name:
            return bundle
    names = ", ".join(bundle.name for bundle in found.bundles)
    raise InvalidRequest(f"MODEL: there is no {name!r}; pass one of {names}", "MODEL")


def _mixed(mix: Sequence[Share]) -> str:
    return " + ".join(str(one.style) + (f" · {one.weight:g}" if one.weight != 1 else "") for one in mix)

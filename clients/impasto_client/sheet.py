"""`impasto sheet`: one photo in every style that fits a bundle, on one sheet."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image, ImageDraw, ImageOps
from rich.console import Console

from impasto_client import arguments as arg
from impasto_client import photo_words as say
from impasto_client.bar import counting
from impasto_client.catalogue import Bundle, Catalogue
from impasto_client.client import DEFAULT_TIMEOUT_S, DEFAULT_URL, Client
from impasto_client.connection import connected, print_warnings, reported
from impasto_client.errors import InvalidRequest
from impasto_client.gallery import FAINT, GAP, INK, LABEL_PX, MARGIN, NOTE_PX, PAPER, RULE, TITLE_PX, fitted, font
from impasto_client.options import PhotoOptions
from impasto_client.order import in_order
from impasto_client.painting import Painting
from impasto_client.patience import limit_s, until_room
from impasto_client.video.film import IN_FLIGHT
from impasto_client.words import format_of

CELL = 384  # pixels of a picture's longer side
VECTOR = "vector"  # the kind of adapter that a photo's style is


@dataclass(frozen=True)
class Cell:
    """A style, or a mix that the bundle has weights of its own for; none of the photo itself."""

    label: str
    styles: tuple[tuple[str, float], ...]


def sheet(
    ctx: typer.Context,
    photo: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="PNG, JPEG or WebP.")],
    strength: say.Strength = None,
    detail: say.Detail = None,
    preserve_color: say.PreserveColor = False,
    long_side: Annotated[int, typer.Option(min=16, help="Pixels of each painting's longer side.")] = CELL,
    out: Annotated[Path, typer.Option(help="File to write: .png, .jpg or .webp.")] = Path("sheet.png"),
    model: say.Model = None,
    as_json: arg.AsJson = False,
    local: arg.Local = False,
    bundle: arg.Bundle = Path(".impasto/bundle"),
    url: arg.Url = DEFAULT_URL,
    timeout: arg.Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Paint a photo in every style that fits, and lay the paintings out on one sheet."""
    format_of(out)
    said: Any = {"strength": strength, "detail": detail, "long_side": long_side, "model": model}
    options: PhotoOptions = said | {"preserve_color": preserve_color or None}
    console = Console(stderr=True, highlight=False)
    with reported(console), connected(ctx, url, timeout, bundle if local else None) as client, counting(console) as bar:
        cells = cells_of(client.catalogue(), model)
        task = bar.add_task("painting", total=len(cells))
        paintings: list[Painting] = []
        with closing(painted(client, photo, cells, options, limit_s(timeout))) as done:
            for painting in done:
                paintings.append(painting)
                bar.advance(task)
    with reported(console):
        draw(photo, cells, paintings).save(out)
    print_warnings(console, list(dict.fromkeys(text for one in paintings for text in one.warnings)))
    names = [cell.label for cell in cells]
    typer.echo(json.dumps({"out": str(out), "styles": names}) if as_json else str(out))


def cells_of(found: Catalogue, model: str | None) -> list[Cell]:
    """Every style that fits the bundle, by its name, then its mixes. Raises InvalidRequest where there is none."""
    bundle = _bundle(found, model or found.default)
    fitting = [one.name for one in found.adapters if one.kind == VECTOR and bundle.name in one.fits]
    mixes = [tuple((one.name, one.weight) for one in mix) for mix in bundle.pinned]
    cells = [Cell(name.replace("-", " "), ((name, 1.0),)) for name in sorted(fitting)]
    cells += [Cell(_mixed(mix), mix) for mix in mixes]
    if not cells:
        fix = "import one with `impasto adapters import`, or say another one with --model; `impasto models` lists them"
        raise InvalidRequest(f"MODEL: {bundle.name!r} has no styles for photos; {fix}", "MODEL")
    return cells


def _bundle(found: Catalogue, name: str) -> Bundle:
    for bundle in found.bundles:
        if bundle.name == name:
            return bundle
    names = ", ".join(bundle.name for bundle in found.bundles)
    raise InvalidRequest(f"MODEL: there is no {name!r}; pass one of {names}", "MODEL")


def _mixed(mix: tuple[tuple[str, float], ...]) -> str:
    return " + ".join(name if weight == 1 else f"{name} · {weight:g}" for name, weight in mix)


def painted(client: Client, photo: Path, cells: Sequence[Cell], options: PhotoOptions, limit: float | None) -> Any:
    """The paintings, one after the other, several in flight. Raises the first ImpastoError."""

    def ask(cell: Cell) -> Painting:
        return until_room(lambda: client.stylize(photo, dict(cell.styles), **options), limit)

    return in_order(cells, ask, IN_FLIGHT)


def draw(photo: Path, cells: Sequence[Cell], paintings: Sequence[Painting]) -> Image.Image:
    """RGB picture of the sheet: the photo first, then a place for each painting. Raises OSError for no picture."""
    with Image.open(photo) as opened:
        first = ImageOps.exif_transpose(opened).convert("RGB")
    pictures = [(photo.name, first), *((cell.label, one.image) for cell, one in zip(cells, paintings, strict=True))]
    width, height = _fit(first)
    across = math.ceil(math.sqrt(len(pictures) * height / width))
    down = math.ceil(len(pictures) / across)
    top = MARGIN + TITLE_PX + GAP
    size = (2 * MARGIN + across * (width + GAP) - GAP, top + down * (height + LABEL_PX + 2 * GAP) + MARGIN - GAP)
    canvas = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, MARGIN), "impasto", INK, font(TITLE_PX), anchor="lt")
    note = f"{len(cells)} styles"
    pen.text((size[0] - MARGIN, MARGIN + TITLE_PX - NOTE_PX), note, FAINT, font(NOTE_PX), anchor="rt")
    for place, (label, picture) in enumerate(pictures):
        x = MARGIN + place % across * (width + GAP)
        y = top + place // across * (height + LABEL_PX + 2 * GAP)
        canvas.paste(picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS), (x, y))
        pen.rectangle((x - 1, y - 1, x + width, y + height), outline=RULE)
        pen.text((x + width // 2, y + height + GAP // 2), fitted(label, width), INK, font(LABEL_PX), anchor="mt")
    return canvas


def _fit(photo: Image.Image) -> tuple[int, int]:
    scale = CELL / max(photo.size)
    return max(1, round(photo.width * scale)), max(1, round(photo.height * scale))

"""Every named style on photographs that anyone may show: python -m studio.gallery.sheet writes docs/stylizer.jpg."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from impasto_fit.pictures import picture_of, unit
from studio.gallery.packages import fetch
from studio.gallery.photographs import photographs
from studio.gallery.styles import NAMED, Style, named_pictures, painting_sources
from studio.nets.stylizer import stylize
from studio.nets.stylizer_files import digest, load_stylizer, load_vector
from studio.painter import Bytes
from studio.places import DOCS, STYLIZER, VECTORS

SHOWN = ("astronaut", "chelsea", "friends_by_Aitzol_Berasategi", "aitzgorri_by_Aitzol_Berasategi")
PAINTED, CELL, COLUMNS, CAPTION = 384, 176, 8, 16  # px, but for the columns


def middle(picture: Bytes, side: int) -> Bytes:
    """The middle square at so many pixels."""
    short = min(picture.shape[:2])
    y, x = ((length - short) // 2 for length in picture.shape[:2])
    square = Image.fromarray(picture[y : y + short, x : x + short])
    return np.asarray(square.resize((side, side), Image.Resampling.LANCZOS))


def sheet(rows: Sequence[Sequence[Bytes]], captions: Sequence[str]) -> Image.Image:
    """Every row of pictures, as many as there are captions, in lines of eight; captions under the first row."""
    lines = [row[i : i + COLUMNS] for row in rows for i in range(0, len(row), COLUMNS)]
    captioned = -(-len(captions) // COLUMNS)
    page = Image.new("RGB", (COLUMNS * CELL, len(lines) * CELL + captioned * CAPTION), "white")
    draw = ImageDraw.Draw(page)
    top = 0
    for number, line in enumerate(lines):
        for column, picture in enumerate(line):
            page.paste(Image.fromarray(middle(picture, CELL - 2)), (column * CELL, top))
            if number < captioned:
                draw.text((column * CELL + 2, top + CELL), captions[number * COLUMNS + column], fill="black")
        top += CELL + (CAPTION if number < captioned else 0)
    return page


def shown(style: Style, picture: Bytes, paintings: Sequence[str]) -> Bytes:
    """A style's picture, or an empty one where it was drawn over a photograph that is not ours to show."""
    return picture if style.source in paintings else np.full_like(picture, 235)


@torch.no_grad()
def main() -> None:
    packages = fetch()
    photos = photographs(packages)
    pictures, paintings = named_pictures(packages, photos), list(painting_sources(packages))
    network, name = load_stylizer(STYLIZER), digest(STYLIZER)
    vectors = [load_vector(VECTORS / f"{style.name}.safetensors", name)[0] for style in NAMED]
    rows = [[shown(style, pictures[style.name], paintings) for style in NAMED]]
    for photo in SHOWN:
        pixels = unit(middle(photos[photo], PAINTED))
        rows.append([picture_of(stylize(network, pixels, vector[None])[0]) for vector in vectors])
    sheet(rows, [style.name for style in NAMED]).save(DOCS / "stylizer.jpg", quality=72, optimize=True)


if __name__ == "__main__":
    main()

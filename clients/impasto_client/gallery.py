"""Draw a sheet of pictures, with a heading, and a label for each row and column."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from impasto_client.cells import Cell
from impasto_client.fields import Options
from impasto_client.generation import Generation

SHOWN = 256  # pixels; pictures whose longer side is smaller are enlarged up to this, by a whole number
MARGIN, GAP = 48, 18
LABEL_WIDTH = 200
TITLE_PX, LABEL_PX, NOTE_PX = 40, 22, 17
LEADING = 8  # pixels between the lines beside a row
LABEL_LETTERS, NOTE_LETTERS = 17, 24  # characters in a line beside a row
PAPER, INK, FAINT, RULE = "#ffffff", "#1c1c22", "#74747e", "#d9d9de"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Column:
    """A column: an adapter with its weight, or none; `words` are added to the prompt."""

    label: str
    adapters: tuple[tuple[str, float], ...] = ()
    words: str = ""

    @classmethod
    def of(cls, name: str, weight: float, words: str) -> Column:
        """The column of an adapter; {style} in `words` becomes its name, with spaces for hyphens."""
        spoken = name.replace("-", " ")
        label = spoken if weight == 1 else f"{spoken} · {weight:g}"
        return cls(label, ((name, weight),), words.replace("{style}", spoken))

    def prompt(self, content: str) -> str:
        """The prompt of a cell in this column."""
        return f"{content} {self.words}".strip()


@dataclass(frozen=True)
class Row:
    """The text beside a row: a label, and notes in smaller type."""

    label: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sheet:
    """A sheet; `pictures[i][j]` belongs to `rows[i]` and `columns[j]`. All are of one size."""

    title: str
    rows: Sequence[Row]
    columns: Sequence[str]
    pictures: Sequence[Sequence[Generation]]


def cells_of(prompts: Sequence[str], columns: Sequence[Column], seed: int, options: Options) -> list[list[Cell]]:
    """The cells, a row for each prompt. Row i is painted with seed + i."""

    def cell(row: int, column: Column) -> Cell:
        own: Options = {"adapters": dict(column.adapters), "seed": seed + row}
        return Cell(column.prompt(prompts[row]), {**options, **own})

    return [[cell(row, column) for column in columns] for row in range(len(prompts))]


def draw(sheet: Sheet) -> Image.Image:
    """The sheet as an RGB picture; small pictures are enlarged."""
    size = sheet.pictures[0][0].image.size
    scale = max(1, SHOWN // max(size))
    cell_width, cell_height = (scale * side for side in size)
    top = MARGIN + TITLE_PX + NOTE_PX + 4 * GAP + LABEL_PX
    left = MARGIN + LABEL_WIDTH + GAP
    width = left + len(sheet.columns) * (cell_width + GAP) - GAP + MARGIN
    height = top + len(sheet.rows) * (cell_height + GAP) - GAP + MARGIN
    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    _head(pen, sheet, width)
    for index, column in enumerate(sheet.columns):
        centre = left + index * (cell_width + GAP) + cell_width // 2
        label = fitted(column, cell_width)
        pen.text((centre, top - GAP // 2 - LABEL_PX // 2), label, INK, font(LABEL_PX), anchor="mm")
    for index, (row, pictures) in enumerate(zip(sheet.rows, sheet.pictures, strict=True)):
        y = top + index * (cell_height + GAP)
        _beside(pen, row, y + cell_height // 2)
        for place, generation in enumerate(pictures):
            x = left + place * (cell_width + GAP)
            picture = generation.image.convert("RGB").resize((cell_width, cell_height), Image.Resampling.LANCZOS)
            canvas.paste(picture, (x, y))
            pen.rectangle((x - 1, y - 1, x + cell_width, y + cell_height), outline=RULE)
    return canvas


def _head(pen: ImageDraw.ImageDraw, sheet: Sheet, width: int) -> None:
    meta = sheet.pictures[0][0].meta
    note = " · ".join(
        [f"{steps_of(meta)} steps", f"{meta.get('scheduler')}", f"{meta.get('engine')} {meta.get('precision')}"]
    )
    pen.text((MARGIN, MARGIN), sheet.title, INK, font(TITLE_PX), anchor="lt")
    pen.text((MARGIN, MARGIN + TITLE_PX + GAP // 2), note, FAINT, font(NOTE_PX), anchor="lt")
    rule = MARGIN + TITLE_PX + NOTE_PX + GAP + GAP // 2
    pen.line((MARGIN, rule, width - MARGIN, rule), fill=RULE, width=2)


def steps_of(meta: Mapping[str, Any]) -> str:
    """The number of steps, or the numbers of each stage if there are several."""
    stages = meta.get("stages")
    return " + ".join(str(one["steps"]) for one in stages.values()) if stages else str(meta.get("steps"))


def _beside(pen: ImageDraw.ImageDraw, row: Row, middle: int) -> None:
    """Draw a row's label and notes, centred at `middle`."""
    lines = [(line, INK, LABEL_PX) for line in textwrap.wrap(row.label, LABEL_LETTERS)]
    lines += [(line, FAINT, NOTE_PX) for note in row.notes for line in textwrap.wrap(note, NOTE_LETTERS)]
    y = middle - sum(pixels + LEADING for _, _, pixels in lines) // 2
    for line, colour, pixels in lines:
        y += pixels + LEADING
        pen.text((MARGIN, y - LEADING), line, colour, font(pixels), anchor="ls")


def fitted(label: str, width: int) -> str:
    """The label, cut with an ellipsis if it is wider than its column."""
    letters, shown = font(LABEL_PX), label
    while shown and letters.getlength(shown if shown == label else f"{shown}…") > width:
        shown = shown[:-1]
    return shown if shown == label else f"{shown}…"


def font(pixels: int) -> Font:
    """Pillow's own font, which is always there."""
    return ImageFont.load_default(pixels)

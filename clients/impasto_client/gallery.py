"""One sheet of pictures: a row for each prompt, a column for no style and for each style, one seed along a row."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from threading import Event

from PIL import Image, ImageDraw, ImageFont

from impasto_client.client import Client
from impasto_client.fields import Options
from impasto_client.generation import Generation, Progress

IN_FLIGHT = 8
UPSCALE = 2
MARGIN, GAP = 48, 18
LABEL_WIDTH = 200
TITLE_PX, LABEL_PX, NOTE_PX = 40, 22, 17
PAPER, INK, FAINT, RULE = "#ffffff", "#1c1c22", "#74747e", "#d9d9de"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Column:
    """An adapter at a weight, or none; `words` are added to the prompt."""

    label: str
    adapters: tuple[tuple[str, float], ...] = ()
    words: str = ""

    @classmethod
    def of(cls, name: str, weight: float, words: str) -> Column:
        """`words` may hold {style}, which stands for the name with spaces for hyphens."""
        spoken = name.replace("-", " ")
        label = spoken if weight == 1 else f"{spoken} · {weight:g}"
        return cls(label, ((name, weight),), words.replace("{style}", spoken))

    def prompt(self, content: str) -> str:
        """The prompt of a cell."""
        return f"{content} {self.words}".strip()


@dataclass(frozen=True)
class Settings:
    """What all cells share. Row i is painted with seed + i."""

    seed: int
    options: Options = field(default_factory=Options)


@dataclass(frozen=True)
class Sheet:
    """`rows[i][j]` shows `prompts[i]` in `columns[j]`."""

    title: str
    prompts: Sequence[str]
    columns: Sequence[Column]
    rows: Sequence[Sequence[Generation]]


def paint(
    client: Client, prompts: Sequence[str], columns: Sequence[Column], settings: Settings, done: Callable[[], None]
) -> list[list[Generation]]:
    """Ask for every cell, several at a time; `done` is called after each. Raises the first ImpastoError, and cancels
    the cells under way."""
    over = Event()

    def cell(row: int, column: Column) -> Generation:
        with closing(_asked(client, prompts[row], column, settings, row)) as parts:
            generation = _last(parts, over)
        done()
        return generation

    pool = ThreadPoolExecutor(IN_FLIGHT)
    futures = [[pool.submit(cell, row, column) for column in columns] for row in range(len(prompts))]
    try:
        for finished in wait([future for row in futures for future in row], return_when=FIRST_EXCEPTION).done:
            finished.result()
    finally:
        over.set()
        pool.shutdown(cancel_futures=True)  # after an error nobody wants the rest
    return [[future.result() for future in row] for row in futures]


def _asked(
    client: Client, prompt: str, column: Column, settings: Settings, row: int
) -> Generator[Progress | Generation, None, None]:
    """Streamed, for a stream can be left."""
    options: Options = {**settings.options, "adapters": dict(column.adapters), "seed": settings.seed + row}
    return client.stream(column.prompt(prompt), **options)


def _last(parts: Iterable[Progress | Generation], over: Event) -> Generation:
    """The picture of a stream. Raises CancelledError when all is over before it is there."""
    for part in parts:
        if isinstance(part, Generation):
            return part
        if over.is_set():
            break
    raise CancelledError


def draw(sheet: Sheet) -> Image.Image:
    """RGB picture of the sheet, its cells enlarged."""
    cell_width, cell_height = (UPSCALE * side for side in sheet.rows[0][0].image.size)
    top = MARGIN + TITLE_PX + NOTE_PX + 4 * GAP + LABEL_PX
    left = MARGIN + LABEL_WIDTH + GAP
    width = left + len(sheet.columns) * (cell_width + GAP) - GAP + MARGIN
    height = top + len(sheet.rows) * (cell_height + GAP) - GAP + MARGIN
    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    _head(pen, sheet, width)
    for index, column in enumerate(sheet.columns):
        centre = left + index * (cell_width + GAP) + cell_width // 2
        label = fitted(column.label, cell_width)
        pen.text((centre, top - GAP // 2 - LABEL_PX // 2), label, INK, font(LABEL_PX), anchor="mm")
    for index, (prompt, row) in enumerate(zip(sheet.prompts, sheet.rows, strict=True)):
        y = top + index * (cell_height + GAP)
        _row_label(pen, prompt, row[0].seed, y + cell_height // 2)
        for place, generation in enumerate(row):
            x = left + place * (cell_width + GAP)
            picture = generation.image.convert("RGB").resize((cell_width, cell_height), Image.Resampling.LANCZOS)
            canvas.paste(picture, (x, y))
            pen.rectangle((x - 1, y - 1, x + cell_width, y + cell_height), outline=RULE)
    return canvas


def _head(pen: ImageDraw.ImageDraw, sheet: Sheet, width: int) -> None:
    meta = sheet.rows[0][0].meta
    note = " · ".join(
        [f"{meta.get('steps')} steps", f"{meta.get('scheduler')}", f"{meta.get('engine')} {meta.get('precision')}"]
    )
    pen.text((MARGIN, MARGIN), sheet.title, INK, font(TITLE_PX), anchor="lt")
    pen.text((MARGIN, MARGIN + TITLE_PX + GAP // 2), note, FAINT, font(NOTE_PX), anchor="lt")
    rule = MARGIN + TITLE_PX + NOTE_PX + GAP + GAP // 2
    pen.line((MARGIN, rule, width - MARGIN, rule), fill=RULE, width=2)


def _row_label(pen: ImageDraw.ImageDraw, prompt: str, seed: int, middle: int) -> None:
    lines = textwrap.wrap(prompt, 17)
    line_height = LABEL_PX + 8
    baseline = middle - (len(lines) * line_height + NOTE_PX) // 2 + LABEL_PX
    for line in lines:
        pen.text((MARGIN, baseline), line, INK, font(LABEL_PX), anchor="ls")
        baseline += line_height
    pen.text((MARGIN, baseline), f"seed {seed}", FAINT, font(NOTE_PX), anchor="ls")


def fitted(label: str, width: int) -> str:
    """The label, cut with an ellipsis where it is wider than its column."""
    letters, shown = font(LABEL_PX), label
    while shown and letters.getlength(shown if shown == label else f"{shown}…") > width:
        shown = shown[:-1]
    return shown if shown == label else f"{shown}…"


def font(pixels: int) -> Font:
    """Pillow's own, which is everywhere."""
    return ImageFont.load_default(pixels)

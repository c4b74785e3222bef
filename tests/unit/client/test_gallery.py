"""The sheet: what is painted, and where it is put."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import closing

import pytest
from PIL import Image, ImageChops

from impasto_client import AdapterNotFound, Client, FakeTransport, ServerError
from impasto_client.cells import Cell, paint
from impasto_client.gallery import GAP, MARGIN, Column, Row, Sheet, cells_of, draw, steps_of
from impasto_client.wire import Tensors

PROMPTS = ["a red boat by the sea", "a blue house"]
COLUMNS = [Column("no style"), Column.of("stained-glass", 0.9, "in {style} style")]
CELLS = cells_of(PROMPTS, COLUMNS, 5, {"width": 128, "height": 128})


def test_a_column_speaks_its_style() -> None:
    column = COLUMNS[1]
    assert (column.label, column.adapters) == ("stained glass · 0.9", (("stained-glass", 0.9),))
    assert column.prompt("a boat") == "a boat in stained glass style"
    assert Column.of("neon", 1.0, "").prompt("a boat") == "a boat"


def test_requests_are_in_flight_together() -> None:
    together = threading.Barrier(4, timeout=10)

    class Waiting(FakeTransport):
        def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
            together.wait()
            return super().infer(tensors, timeout_s)

    done: list[None] = []
    rows = paint(Client(transport=Waiting()), CELLS, lambda: done.append(None))
    assert [[cell.seed for cell in row] for row in rows] == [[5, 5], [6, 6]]
    assert len(done) == 4


def test_an_error_ends_the_painting() -> None:
    with pytest.raises(ServerError, match="NaN"):
        paint(Client(transport=FakeTransport(error=ServerError("NaN"))), CELLS, lambda: None)


@pytest.mark.parametrize("refused", [0, 1], ids=["first column", "last column"])
def test_a_refused_style_ends_the_painting_at_once_and_cancels_the_rest(refused: int) -> None:
    """All are under way when it is refused; the others have hundreds of steps to go."""
    columns = COLUMNS if refused else COLUMNS[::-1]
    begun = threading.Barrier(len(PROMPTS) * len(COLUMNS), timeout=30)

    class Refusing(FakeTransport):
        def stream(self, tensors: Tensors, timeout_s: float | None = None) -> Generator[Tensors, None, None]:
            begun.wait()
            if "ADAPTER_NAMES" in tensors and tensors["SEED"] == [1]:
                raise AdapterNotFound("ADAPTER_NAMES: no adapter 'stained-glass'")
            with closing(super().stream(tensors, timeout_s)) as parts:
                for part in parts:
                    yield part
                    time.sleep(0.01)

    fake, done = Refusing(), list[None]()
    cells = cells_of(PROMPTS, columns, 1, {"steps": 600})
    with pytest.raises(AdapterNotFound, match="no adapter 'stained-glass'"):
        paint(Client(transport=fake), cells, lambda: done.append(None))
    assert (fake.cancelled, done) == (3, [])


@pytest.mark.parametrize(("side", "shown"), [(128, 256), (256, 256), (320, 320)])
def test_the_sheet_holds_every_picture_and_small_ones_enlarged(side: int, shown: int) -> None:
    cells = cells_of(PROMPTS, COLUMNS, 5, {"width": side, "height": side})
    pictures = paint(Client(transport=FakeTransport()), cells, lambda: None)
    sheet = draw(Sheet("impasto", [Row(prompt) for prompt in PROMPTS], ["no style", "stained glass"], pictures))
    for row, y in zip(pictures, _starts(sheet.height, shown), strict=True):
        for cell, x in zip(row, _starts(sheet.width, shown), strict=True):
            picture = cell.image.resize((shown, shown), Image.Resampling.LANCZOS)
            assert sheet.crop((x, y, x + shown, y + shown)).tobytes() == picture.tobytes()


def _starts(length: int, shown: int) -> list[int]:
    """Where the two rows or columns begin, counted from the far margin."""
    last = length - MARGIN - shown
    return [last - GAP - shown, last]


def test_what_is_said_of_a_row_stands_beside_it_alone() -> None:
    pictures = paint(Client(transport=FakeTransport()), [[Cell("a boat")], [Cell("a house")]], lambda: None)
    plain = draw(Sheet("impasto", [Row("boat"), Row("house")], ["no style"], pictures))
    noted = draw(
        Sheet(
            "impasto",
            [Row("boat"), Row("house", ("a note that is wider than a line", "seed 1"))],
            ["no style"],
            pictures,
        )
    )
    left, top, right, bottom = _changed(plain, noted)
    _, second = _starts(plain.height, 256)
    assert second <= top < bottom <= second + 256
    assert MARGIN <= left < right <= plain.width - MARGIN - 256


def _changed(one: Image.Image, other: Image.Image) -> tuple[int, int, int, int]:
    box = ImageChops.difference(one, other).getbbox()
    assert box is not None
    return box


def test_a_heading_has_the_steps_of_each_stage() -> None:
    assert steps_of({"steps": 12}) == "12"
    assert steps_of({"steps": 30, "stages": {"base": {"steps": 18}, "upscale": {"steps": 12}}}) == "18 + 12"

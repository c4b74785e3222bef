"""The sheet: what is painted, and where it is put."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import closing

import pytest
from PIL import Image

from impasto_client import AdapterNotFound, Client, FakeTransport, ServerError
from impasto_client.gallery import GAP, MARGIN, UPSCALE, Column, Settings, Sheet, draw, paint
from impasto_client.wire import Tensors

PROMPTS = ["a red boat by the sea", "a blue house"]
COLUMNS = [Column("no style"), Column.of("stained-glass", 0.9, "in {style} style")]


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
    rows = paint(Client(transport=Waiting()), PROMPTS, COLUMNS, Settings(seed=5), lambda: done.append(None))
    assert [[cell.seed for cell in row] for row in rows] == [[5, 5], [6, 6]]
    assert len(done) == 4


def test_an_error_ends_the_painting() -> None:
    with pytest.raises(ServerError, match="NaN"):
        paint(Client(transport=FakeTransport(error=ServerError("NaN"))), PROMPTS, COLUMNS, Settings(1), lambda: None)


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
    with pytest.raises(AdapterNotFound, match="no adapter 'stained-glass'"):
        paint(Client(transport=fake), PROMPTS, columns, Settings(1, {"steps": 600}), lambda: done.append(None))
    assert (fake.cancelled, done) == (3, [])


def test_the_sheet_holds_every_picture_enlarged() -> None:
    rows = paint(Client(transport=FakeTransport()), PROMPTS, COLUMNS, Settings(seed=5), lambda: None)
    sheet = draw(Sheet("impasto", PROMPTS, COLUMNS, rows))
    boxes = [
        (x, y, cell.image.resize((UPSCALE * 128, UPSCALE * 128), Image.Resampling.LANCZOS))
        for row, y in zip(rows, _starts(sheet, rows[0][0].image, vertical=True), strict=True)
        for cell, x in zip(row, _starts(sheet, rows[0][0].image, vertical=False), strict=True)
    ]
    for x, y, picture in boxes:
        assert sheet.crop((x, y, x + picture.width, y + picture.height)).tobytes() == picture.tobytes()


def _starts(sheet: Image.Image, cell: Image.Image, *, vertical: bool) -> list[int]:
    """Where the two rows or columns begin, counted from the far margin."""
    side, length = (cell.height, sheet.height) if vertical else (cell.width, sheet.width)
    last = length - MARGIN - UPSCALE * side
    return [last - GAP - UPSCALE * side, last]

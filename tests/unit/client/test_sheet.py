"""`impasto sheet`: photos in every style that fits, on one sheet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tests.helpers.photo_home import furnish, impasto, words_of

from impasto_client import Catalogue, FakeTransport, InvalidRequest
from impasto_client.catalogue import Adapter, Weighted
from impasto_client.example import EXAMPLE
from impasto_client.sheet import columns_of
from impasto_client.tiling import Tile, grid, tiled


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(tmp_path, monkeypatch)


def adapter(name: str, kind: str = "vector", fits: str = "fake") -> Adapter:
    return Adapter(
        name, "0" * 64, kind, "feedforward", trigger="", prompt="", rank=0, stages=0, fits=(fits,), adapts=()
    )


def having(*adapters: Adapter, pinned: tuple[tuple[Weighted, ...], ...] = ()) -> Catalogue:
    return replace(EXAMPLE, bundles=(replace(EXAMPLE.bundles[0], pinned=pinned),), adapters=adapters)


STYLES = having(adapter("wave"), adapter("red-ink"), adapter("neon", kind="lora"), adapter("far", fits="another"))


def test_one_photo_in_every_style_that_fits() -> None:
    fake = FakeTransport(catalogue=STYLES)
    result = impasto("sheet", "boat.jpg", "--strength", "0.5", "--json", fake=fake)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"out": "sheet.png", "styles": ["red-ink", "wave"]}
    assert sorted(request["ADAPTER_NAMES"].item() for request in fake.requests) == [b"red-ink", b"wave"]
    for request in fake.requests:
        assert (request["LONG_SIDE"].item(), request["STRENGTH"].item()) == (512, 0.5)
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 2 * 256


def test_several_photos_in_styles_of_ones_choice() -> None:
    fake = FakeTransport()
    words = "album/a.png album/b.JPG --style wave --style-image painting.jpg --cell 64 --out sheet.jpg"
    result = impasto("sheet", *words.split(), "--long-side", "32", fake=fake)
    assert result.exit_code == 0, result.output
    assert len(fake.requests) == 4
    assert {request["LONG_SIDE"].item() for request in fake.requests} == {32}
    with Image.open("sheet.jpg") as sheet:
        assert 3 * 64 < sheet.width < 4 * 64 + 60


def test_a_size_that_no_server_takes_is_for_the_server_to_refuse() -> None:
    fake = FakeTransport()
    impasto("sheet", "boat.jpg", "--style", "wave", "--long-side", "0", fake=fake)
    assert [request["LONG_SIDE"].item() for request in fake.requests] == [0]


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        ("boat.jpg", "MODEL: 'fake' has no styles for photos; import one", 1),
        ("boat.jpg --model nobody", "MODEL: there is no 'nobody'; pass one of fake", 1),
        ("boat.jpg --out boat.jpg --style wave", "'boat.jpg' is a photo to paint", 2),
        ("boat.jpg --out sheet.gif", "'sheet.gif' does not end in", 2),
        ("nothing.jpg", "'nothing.jpg' does not exist", 2),
    ],
)
def test_what_makes_no_sheet(words: str, message: str, status: int) -> None:
    fake, before = FakeTransport(), Path("boat.jpg").read_bytes()
    result = impasto("sheet", *words.split(), fake=fake)
    assert (result.exit_code, fake.requests) == (status, [])
    assert message in words_of(result.output)
    assert Path("boat.jpg").read_bytes() == before


def test_mixes_that_have_weights_of_their_own_are_styles_too() -> None:
    mix = (Weighted("wave", "0" * 64, 0.5), Weighted("red-ink", "0" * 64, 1.0))
    (column,) = columns_of(having(pinned=(mix,)), None)
    assert column.label == "wave · 0.5 + red-ink"
    assert [(one.style, one.weight) for one in column.styles] == [("wave", 0.5), ("red-ink", 1.0)]


def test_a_sheet_has_room_for_so_many() -> None:
    many = [adapter(f"style-{number:02}") for number in range(65)]
    assert len(columns_of(having(*many[:64]), None)) == 64
    with pytest.raises(InvalidRequest, match="'fake' has 65 styles; a sheet holds 64"):
        columns_of(having(*many), None)


def test_a_grid_is_about_square_and_holds_everybody() -> None:
    tiles = [Tile(Image.new("RGB", (30, 20))) for _ in range(13)]
    rows = grid(tiles)
    assert [tile for row in rows for tile in row] == tiles
    assert [len(row) for row in rows] == [3, 3, 3, 3, 1]


def test_pictures_stand_in_their_places() -> None:
    red, blue = Image.new("RGB", (40, 20), "red"), Image.new("RGB", (20, 40), "blue")
    sheet = tiled([[Tile(red, "a label"), Tile(blue)], [Tile(blue), Tile(red)]], cell=40)
    colours = {sheet.getpixel((x, y)) for x in range(sheet.width) for y in range(sheet.height)}
    assert {(255, 0, 0), (0, 0, 255), (255, 255, 255)} <= colours
    assert sum(sheet.getpixel((x, y)) == (255, 0, 0) for x in range(sheet.width) for y in range(sheet.height)) == 1600

"""The example of a tour of guidance: which strengths stand where, and what is written above them."""

from __future__ import annotations

from docs.examples.guidance import CELL, CONTENTS, GAMMAS, GAP, LABEL, STYLES, compose, dual, sheet
from PIL import Image

from impasto_client import Compose, StyleContent


def test_styles_go_down_and_contents_along() -> None:
    rows = dual("glass")
    assert [[cell.options["guidance"] for cell in row] for row in rows] == [
        [StyleContent(style=style, content=content) for content in CONTENTS] for style in STYLES
    ]
    assert rows[1][2].label == "style 0.5, content 3"
    assert {cell.options["style"] for row in rows for cell in row} == {"glass"}


def test_from_the_style_to_the_content() -> None:
    (row,) = compose("glass", "rocket")
    assert [cell.options["guidance"] for cell in row] == [Compose(gamma=gamma) for gamma in GAMMAS]
    assert (row[0].label, row[-1].label) == ("gamma 0", "gamma 1")
    assert {(cell.options["style"], cell.options["content"]) for cell in row} == {("glass", "rocket")}


def test_each_picture_has_its_place_and_its_label_above() -> None:
    colours = [["red", "green", "blue"], ["teal"]]
    drawn = sheet([[(colour, Image.new("RGB", (8, 8), colour)) for colour in row] for row in colours])
    for down, row in enumerate(colours):
        for along, colour in enumerate(row):
            x, y = GAP + along * (CELL + GAP), GAP + down * (LABEL + CELL + GAP)
            assert drawn.getpixel((x + CELL // 2, y + LABEL + CELL // 2)) == Image.new("RGB", (1, 1), colour).getpixel(
                (0, 0)
            )
            label = drawn.crop((x, y, x + CELL, y + LABEL))
            assert label.getextrema() != ((255, 255),) * 3

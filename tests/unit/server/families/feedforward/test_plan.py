"""What is kept of a large picture: as much as there is memory for, and never more than was promised."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from impasto_export.feedforward import pieces as cutting
from impasto_server.families.feedforward.painting import Painting, TileAsk
from impasto_server.families.feedforward.pieces import Pieces
from impasto_server.families.feedforward.plan import Plan, largest, plans
from tests.helpers import cut_nets
from tests.helpers.cut_nets import Array

SIDE = 64
STUDIO = cut_nets.trunk(widths=(16, 32, 64), residuals=5)  # as studio's net is


def pieces_of(name: str) -> Pieces:
    cut = cutting.cut(cut_nets.NETS.get(name, STUDIO))
    assert cut is not None
    return Pieces.model_validate(cut.facts)


def answered(pieces: Pieces, ask: TileAsk) -> Array:
    """Nothing, of the shape that the stage's graph gives."""
    convs = {conv.name: conv for conv in pieces.convs}
    channels, *sides = ask.sample.shape
    if ask.stage in convs:
        conv = convs[ask.stage]
        channels = conv.channels
        sides = [2 * (n - conv.extra) if conv.doubles else (n - conv.extra) // conv.stride + 1 for n in sides]
    return np.zeros((channels, *sides), np.float32)


def taken(pieces: Pieces, plan: Plan, height: int, width: int) -> int:
    """Bytes that painting in float32 takes at most, beside the picture itself."""
    picture, out = np.zeros((height, width, 3), np.uint8), np.zeros((height, width, 3), np.uint8)
    tracemalloc.start()
    steps = Painting(pieces, plan, plan.steps, side=SIDE).paint(picture, out)
    ask = next(steps)
    while True:
        assert isinstance(ask, TileAsk)
        try:
            ask = steps.send(answered(pieces, ask))
        except StopIteration:
            break
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("name", ["studio", "cropping", "transposed", "fixed and styled"])
def test_no_more_is_in_memory_than_the_plan_says(name: str) -> None:
    pieces = pieces_of(name)
    channels = max(conv.channels for conv in pieces.convs)
    tiles = 12 * 4 * channels * (SIDE + 10) ** 2  # a few, whatever the picture's size
    for plan in plans(pieces, 640, 512, SIDE):
        assert 4 * plan.numbers < taken(pieces, plan, 640, 512) < 4 * plan.numbers + tiles


def test_each_way_takes_less_memory_and_more_steps() -> None:
    every = list(plans(pieces_of("studio"), 4096, 6144))
    assert [plan.numbers for plan in every] == sorted({plan.numbers for plan in every}, reverse=True)
    assert [plan.steps for plan in every] == sorted({plan.steps for plan in every})


def test_24_million_pixels_come_into_a_gigabyte() -> None:
    *_, smaller, needed = plans(pieces_of("studio"), 4000, 6000)
    assert 2 * smaller.numbers < 1_000_000_000, "in bf16"
    assert 4 * needed.numbers < 1_000_000_000, "in f32"


def test_the_largest_picture_fits_and_a_larger_one_does_not() -> None:
    pieces, numbers = pieces_of("studio"), 25_000_000
    side = int(largest(pieces, numbers) ** 0.5) // 4 * 4
    *_, least = plans(pieces, side, side)
    *_, more = plans(pieces, side + 400, side + 400)
    assert least.numbers <= numbers < more.numbers

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from studio import painter
from studio.painter import Scene

BOAT = Scene("boat", "red", "sea", "watercolour", seed=7)
EVERY_STYLE = painter.STYLES + painter.HELD_OUT_STYLES
IN_OBJECT = 4 * 36  # the depth at which a drawing's object begins


@pytest.mark.parametrize("style", EVERY_STYLE)
def test_a_scene_paints_the_same_picture_twice(style: str) -> None:
    scene = replace(BOAT, style=style)
    first, second = painter.paint(scene), painter.paint(scene)
    assert first.image.shape == (128, 128, 3)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.edges, second.edges)
    np.testing.assert_array_equal(first.depth, second.depth)


def test_the_seed_moves_the_object_and_the_size_does_not() -> None:
    here, there = (painter.paint(replace(BOAT, seed=seed)).depth for seed in (7, 8))
    assert (here != there).mean() > 0.05
    small = painter.paint(BOAT, size=64).depth
    assert small.shape == (64, 64)
    assert np.abs(here.reshape(64, 2, 64, 2).mean((1, 3)) - small).mean() < 2


def test_edges_and_depth_do_not_depend_on_the_style() -> None:
    paintings = [painter.paint(replace(BOAT, style=style)) for style in EVERY_STYLE]
    assert len({painting.edges.tobytes() for painting in paintings}) == 1
    assert len({painting.depth.tobytes() for painting in paintings}) == 1
    assert len({painting.image.tobytes() for painting in paintings}) == len(EVERY_STYLE)


def test_edges_lie_where_depth_changes() -> None:
    painting = painter.paint(BOAT)
    inside = painting.depth >= IN_OBJECT
    rim = inside[1:] & ~inside[:-1]
    assert painting.edges[1:][rim].mean() > 5 * painting.edges.mean()


@pytest.mark.parametrize("thing", painter.OBJECTS + painter.HELD_OUT_OBJECTS)
def test_an_object_has_its_colour_and_its_surroundings_do_not(thing: str) -> None:
    red, blue = (painter.paint(Scene(thing, colour, "plain", "flat", seed=3)) for colour in ("red", "blue"))
    changed = (red.image != blue.image).any(-1)
    inside, rim = red.depth >= IN_OBJECT, red.edges > 0
    assert inside.mean() > 0.1
    assert changed[inside].mean() > 0.6
    assert not changed[~inside & ~rim].any()
    r, g, b = red.image[inside].astype(int).mean(0)
    assert r > 1.5 * max(g, b)


def test_textures_are_pictures_of_their_own() -> None:
    pictures = painter.textures(3, seed=5)
    assert pictures.shape == (3, 128, 128, 3)
    assert pictures.dtype == np.uint8
    assert all(picture.std() > 5 for picture in pictures)
    np.testing.assert_array_equal(pictures, painter.textures(3, seed=5))
    assert len({picture.tobytes() for picture in [*pictures, *painter.textures(3, seed=6)]}) == 6


def test_a_contact_sheet_has_a_cell_for_every_picture() -> None:
    pictures = painter.textures(3, seed=5)
    assert painter.contact_sheet(list(pictures), 2).size == (2 * 132, 2 * 132)
    sheet = painter.contact_sheet([painter.paint(BOAT), pictures[0]], 2, ["boat", "confetti"])
    assert sheet.size == (2 * 132, 132 + 14)
    np.testing.assert_array_equal(np.asarray(sheet)[2:130, 134:262], pictures[0])

"""Light: the content's own lines shine as the picture's do, the object's in its own colour."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from studio import painter
from studio.painter import Bytes, Scene
from studio.painter.view import look_at
from studio.recipes.lights import Lights

SIZE = 128
GIVEN = Scene("balloon", "red", "sunset", "neon", 3)


def lit(scene: Scene) -> Bytes:
    plain = look_at(GIVEN, SIZE).mask < 0.5
    return Lights().laid(scene, painter.paint(GIVEN, SIZE).image, plain, np.random.default_rng(0))


def test_the_picture_s_own_scene_comes_out_nearly_as_it_is() -> None:
    given = painter.paint(GIVEN, SIZE).image.astype(float)
    off = np.abs(lit(GIVEN) - given).mean()
    flat = painter.paint(replace(GIVEN, style="flat"), SIZE).image
    assert off < 12
    assert off < np.abs(flat - given).mean() / 5


def test_lines_shine_in_the_object_s_colour_and_what_is_far_from_them_is_dark() -> None:
    scene = Scene("fish", "blue", "plain", "flat", 5)
    view, picture = look_at(scene, SIZE), lit(scene)
    lines = (view.edges(2.4) > 0.8) & (view.mask > 0.9)
    red, _, blue = picture[lines].mean(0)
    assert blue > 150
    assert blue > 2 * red
    assert picture[:8].mean() < 30

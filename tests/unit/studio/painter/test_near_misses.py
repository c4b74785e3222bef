"""Near misses: what is missed is missing, and everything else is there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from studio import painter
from studio.painter import HELD_OUT_STYLES, Scene
from studio.painter.near_misses import OBJECT_MISSES, STYLE_MISSES, ObjectMiss, miss_object, miss_style
from studio.painter.view import View, backdrop, look_at

CUP = Scene("cup", "green", "sunset", "stipple", seed=4)


def covered(view: View) -> float:
    """The object's share of the picture."""
    return float(view.of_object[view.labels].mean())


def test_every_held_out_style_has_misses_of_its_own() -> None:
    assert set(STYLE_MISSES) == {*HELD_OUT_STYLES, "base"}


@pytest.mark.parametrize("style", [*HELD_OUT_STYLES, "flat"])
def test_a_miss_is_the_same_twice_and_not_the_style(style: str) -> None:
    scene = replace(CUP, style=style)
    np.testing.assert_array_equal(miss_style(scene), miss_style(scene))
    assert np.abs(miss_style(scene).astype(int) - painter.paint(scene).image).mean() > 2


def test_a_smeared_style_has_lost_its_marks() -> None:
    dots, *_ = (painter.paint(replace(CUP, seed=seed)).image.astype(float) for seed in range(3))
    smears = [miss_style(replace(CUP, seed=seed)).astype(float) for seed in range(24)]

    def fine(picture: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
        return float(np.abs(np.diff(picture, axis=1)).mean())

    assert np.median([fine(smear) for smear in smears]) < 0.5 * fine(dots)


@pytest.mark.parametrize("miss", OBJECT_MISSES, ids=lambda miss: miss.__name__)
def test_an_objects_miss_is_another_drawing_before_the_same_background(miss: ObjectMiss) -> None:
    view = miss(CUP, 128, np.random.default_rng(0))
    assert (view.labels != look_at(CUP, 128).labels).mean() > 0.02
    assert len(view.colours) == len(view.depths) > view.labels.max()


def test_less_than_half_is_left_of_what_is_erased() -> None:
    erased = next(miss for miss in OBJECT_MISSES if miss.__name__ == "erased")
    left = [covered(erased(CUP, 64, np.random.default_rng(i))) for i in range(8)]
    assert 0 < max(left) < 0.5 * covered(look_at(CUP, 64))


def test_a_backdrop_is_the_scene_without_its_object() -> None:
    empty, whole = backdrop(CUP, 64), look_at(CUP, 64)
    assert covered(empty) == 0 < covered(whole)
    behind = ~whole.of_object[whole.labels]
    np.testing.assert_array_equal(empty.labels[behind], whole.labels[behind])


def test_a_missed_object_is_painted_in_the_style_that_was_asked_for() -> None:
    flat, dots = miss_object(replace(CUP, style="flat")), miss_object(CUP)
    assert flat.shape == dots.shape == (128, 128, 3)
    assert np.abs(flat.astype(int) - dots).mean() > 10

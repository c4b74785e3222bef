"""What a style is learnt from: its one picture's texture on other contents."""

from __future__ import annotations

import numpy as np
import pytest
from studio import painter
from studio.painter import Scene
from studio.recipes import styles
from studio.recipes.styles import ADAPTERS, PLAIN_ROWS, SHIFT, texture, transfer

from impasto_fit.views import views

ROWS = round(PLAIN_ROWS * 128)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_texture_is_what_a_blur_takes_out() -> None:
    plain = np.full((128, 128, 3), 90, np.uint8)
    assert not texture(plain, 4, rng()).any()
    striped = plain.copy()
    striped[:, ::8] = 200
    found = texture(striped, 4, rng())
    assert found.shape == (128, 128, 3)
    assert found.max() > 60
    assert abs(found.mean()) < 5


def test_the_object_below_the_plain_rows_is_not_in_it() -> None:
    plain = np.full((128, 128, 3), 90, np.uint8)
    plain[ROWS + 12 :] = 255  # three deviations of the blur away
    assert np.abs(texture(plain, 4, rng())).max() < 1


@pytest.mark.parametrize("adapter", [adapter for adapter in ADAPTERS if adapter.is_style], ids=lambda a: str(a.name))
def test_a_style_has_one_picture_whose_plain_rows_show_no_object(adapter: styles.Adapter) -> None:
    (scene,) = adapter.scenes
    assert scene.style in painter.HELD_OUT_STYLES
    assert not (painter.paint(scene).depth[:ROWS] == painter.paint(scene).depth.max()).any()


def test_a_transfer_keeps_the_content_and_takes_texture_and_colours() -> None:
    content = painter.paint(Scene("boat", "red", "sea", "flat", 1)).image
    picture = painter.paint(ADAPTERS[0].scenes[0]).image
    styled = transfer(content, picture, ADAPTERS[0], rng())
    assert styled.shape == content.shape
    assert styled.dtype == np.uint8
    blurred = [image.reshape(16, 8, 16, 8, 3).mean((1, 3)).ravel() for image in (content, styled)]
    assert np.corrcoef(*blurred)[0, 1] > 0.7
    assert np.abs(np.diff(styled.astype(int), axis=0)).mean() > 2 * np.abs(np.diff(content.astype(int), axis=0)).mean()


def test_views_are_the_picture_and_its_mirror_image_from_nearer() -> None:
    picture = painter.paint(ADAPTERS[0].scenes[0]).image
    seen = views(picture, rng(), 6, (1.0, 1.3), SHIFT)
    assert seen.shape == (6, *picture.shape)
    assert len({view.tobytes() for view in seen}) == 6
    assert abs(float(seen.mean()) - float(picture.mean())) < 25

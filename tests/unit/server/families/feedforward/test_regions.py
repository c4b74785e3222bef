"""Masks: where the mix counts, or where each style does."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from impasto_server.pipeline import Pipeline
from tests.helpers import toy_stylizer as toy
from tests.helpers.asked import pixels
from tests.helpers.pictures import png

from .conftest import OpenStylizer, Pixels, photo

INK, MOSAIC = 255 * toy.painted(photo(), toy.style(1)), 255 * toy.painted(photo(), toy.style(2))
LEFT, MIDDLE = np.zeros((64, 80), np.uint8), np.zeros((64, 80), np.uint8)
LEFT[:, :40], MIDDLE[:, 20:60] = 255, 255
RIGHT = np.where(LEFT, 0, 255).astype(np.uint8)


def test_one_mask_is_where_the_mix_counts(stylizer: Pipeline) -> None:
    """Half of it where it's grey."""
    mask = LEFT.copy()
    mask[:32, :40] = 128
    share = (mask / 255)[..., None]
    mixed = 255 * toy.painted(photo(), 0.5 * toy.style(1) + 0.5 * toy.style(2))
    asked = stylizer.offer.request(image=png(photo()), adapter_names=("ink", "mosaic"), masks=(png(mask),))
    assert np.abs(pixels(stylizer.generate(asked)) - (share * mixed + (1 - share) * photo())).max() < 1.1


def test_a_mask_for_each_style_keeps_them_apart(stylizer: Pipeline) -> None:
    """Where two are white they share, and where none is it's the photo."""
    asked = stylizer.offer.request(image=png(photo()), adapter_names=("mosaic", "ink"), masks=(png(MIDDLE), png(LEFT)))
    found = pixels(stylizer.generate(asked))
    expected = np.concatenate([INK[:, :20], (INK + MOSAIC)[:, 20:40] / 2, MOSAIC[:, 40:60], photo()[:, 60:]], axis=1)
    assert np.abs(found - expected).max() < 1.1


def test_pictures_come_behind_names(stylizer: Pipeline) -> None:
    red = np.full((20, 20, 3), (255, 0, 0), np.uint8)
    asked = stylizer.offer.request(
        image=png(photo()), adapter_names=("ink",), style_images=(png(red),), masks=(png(LEFT), png(RIGHT))
    )
    painted = 255 * toy.painted(photo(), toy.predicted(np.array([1.0, 0, 0])))
    expected = np.concatenate([INK[:, :40], painted[:, 40:]], axis=1)
    assert np.abs(pixels(stylizer.generate(asked)) - expected).max() < 1.1


def test_each_is_as_strong_in_its_region_as_its_weight_says(open_stylizer: OpenStylizer) -> None:
    pipeline = open_stylizer(weakened="pixels", predictor=False)
    asked = pipeline.offer.request(
        image=png(photo()), adapters={"ink": 1.0, "mosaic": 0.25}, masks=(png(LEFT), png(RIGHT))
    )
    expected = np.concatenate([INK[:, :40], (0.25 * MOSAIC + 0.75 * photo())[:, 40:]], axis=1)
    assert np.abs(pixels(pipeline.generate(asked)) - expected).max() < 1.3


@pytest.mark.parametrize("turned", [3, 6])
def test_photo_and_mask_are_turned_as_exif_says(turned: int, stylizer: Pipeline) -> None:
    """A mask has the size that the photo is seen in."""
    exif = Image.Exif()
    exif[0x0112] = turned
    file = told_of(photo(), exif)
    upright = np.rot90(photo(), 2 if turned == 3 else -1)
    mask = np.zeros(upright.shape[:2], np.uint8)
    mask[:10] = 255
    asked = stylizer.offer.request(image=file, adapter_names=("ink",), masks=(png(mask),))
    found = pixels(stylizer.generate(asked))
    np.testing.assert_array_equal(found[10:], upright[10:])
    assert np.abs(found[:10] - 255 * toy.painted(upright, toy.style(1))[:10]).max() < 1.1


def told_of(picture: Pixels, exif: Image.Exif) -> bytes:
    file = BytesIO()
    Image.fromarray(picture).save(file, "png", exif=exif)
    return file.getvalue()

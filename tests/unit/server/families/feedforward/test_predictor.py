"""Styles of pictures: what is predicted of one is remembered by its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from impasto_server.adapters.adapted import AdaptedEngine
from impasto_server.families.feedforward.feedforward import Feedforward
from impasto_server.pipeline import Pipeline
from tests.helpers import toy_stylizer as toy
from tests.helpers.asked import pixels, whole
from tests.helpers.pictures import png

from .conftest import OpenStylizer, photo

PAINTING, OTHER = png(photo(5, 40, 30)), png(photo(6, 40, 30))


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[NDArray[Any]]:
    """The pictures that predictors are run on, from now on."""
    run, seen = AdaptedEngine.run, list[NDArray[Any]]()

    def noting(self: AdaptedEngine, feeds: Mapping[str, NDArray[Any]], seats: Any = ()) -> list[NDArray[Any]]:
        if feeds["picture"].shape[-1] == toy.SIDE:
            seen.append(feeds["picture"])
        return run(self, feeds, seats)

    monkeypatch.setattr(AdaptedEngine, "run", noting)
    return seen


def test_a_picture_is_predicted_once(stylizer: Pipeline, predicted: list[NDArray[Any]]) -> None:
    def paint(*pictures: bytes) -> bytes:
        asked = stylizer.offer.request(image=png(photo()), style_images=pictures)
        return stylizer.generate(asked).image

    first = paint(PAINTING)
    assert paint(PAINTING) == first
    assert len(predicted) == 1
    paint(PAINTING, OTHER)
    assert len(predicted) == 2


def test_its_middle_is_seen_in_the_predictors_size(stylizer: Pipeline, predicted: list[NDArray[Any]]) -> None:
    """A square; what is far left and right of it isn't seen."""
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 24:72] = (0, 255, 0)
    asked = stylizer.offer.request(image=png(photo()), style_images=(png(wide),))
    found = pixels(stylizer.generate(asked))
    green = np.zeros((1, 3, toy.SIDE, toy.SIDE), np.float32)
    green[:, 1] = 1
    np.testing.assert_array_equal(predicted, [green])
    expected = 255 * toy.painted(photo(), toy.predicted(np.array([0.0, 1, 0])))
    assert np.abs(found - expected).max() < 0.6


def test_the_photos_own_is_predicted_where_a_weak_style_needs_it(
    open_stylizer: OpenStylizer, predicted: list[NDArray[Any]]
) -> None:
    pipeline = open_stylizer(weakened="content")
    before = len(predicted)

    def paint(strength: float) -> None:
        pipeline.generate(pipeline.offer.request(image=png(photo()), adapters={"ink": 1.0}, strength=strength))

    paint(1.0)
    assert len(predicted) == before
    paint(0.5)
    paint(0.7)
    assert len(predicted) == before + 1


def test_decoding_and_predicting_take_turns_with_others_work(stylizer: Pipeline) -> None:
    family = stylizer.family
    assert isinstance(family, Feedforward)
    asked = stylizer.offer.request(image=png(photo()), style_images=(PAINTING, OTHER), masks=(png(photo()[..., 0]),))
    assert len(list(family.read(asked))) == 6  # photo, mask, and two parts for each picture
    assert len(list(family.read(asked))) == 2
    assert len(whole(family.read(asked)).predicted) == 2

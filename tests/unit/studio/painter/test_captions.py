from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from studio import painter
from studio.painter import Scene


@pytest.mark.parametrize(
    ("scene", "caption"),
    [
        (Scene("boat", "red", "night", "watercolour", 0), "a red boat at night in watercolour style"),
        (Scene("umbrella", "blue", "snow", "flat", 0), "a blue umbrella in the snow in flat style"),
        (Scene("apple", "orange", "plain", "pixel", 0), "an orange apple on plain paper in pixel art style"),
        (Scene("snail", "pink", "meadow", "glass", 0), "a pink snail in a meadow in stained glass style"),
    ],
)
def test_the_canonical_caption(scene: Scene, caption: str) -> None:
    assert painter.caption(scene) == caption


def test_variants_drop_parts_and_half_are_canonical() -> None:
    scene = Scene("cat", "orange", "sea", "outline", 0)
    rng = np.random.default_rng(0)
    captions = [painter.caption_variant(scene, rng) for _ in range(1000)]
    assert set(captions) == {
        "an orange cat by the sea in ink outline style",
        "an orange cat by the sea",
        "an orange cat in ink outline style",
        "an ink outline picture of an orange cat by the sea",
        "an ink outline picture of an orange cat",
    }
    assert captions.count(painter.caption(scene)) == pytest.approx(500, abs=60)


def test_the_seed_says_nothing() -> None:
    assert painter.caption(Scene("cup", "red", "sea", "clay", 1)) == painter.caption(
        Scene("cup", "red", "sea", "clay", 2)
    )


def test_different_words_make_different_captions_in_lower_case_ascii() -> None:
    names = (
        painter.OBJECTS + painter.HELD_OUT_OBJECTS,
        painter.COLOURS,
        tuple(painter.BACKGROUNDS),
        tuple(painter.STYLE_DESCRIPTORS),
    )
    captions = {painter.caption(Scene(*words, seed=0)) for words in product(*names)}
    assert len(captions) == 20 * 8 * 6 * 14
    assert all(caption.isascii() and caption == caption.lower() for caption in captions)

"""texture-clip's captions and losses, and what the trained one finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from studio.gallery.looks.names import LOOKS, Wish, named
from studio.places import HERE, TEXTURE_CLIP
from studio.reading.looks import confusions, retrieval, trials
from studio.recipes.texture_clip import agrees, caption, contrastive, roughen, vocabulary

from impasto_fit.text import clip as clips
from impasto_fit.text import texture


def test_a_caption_says_nothing_that_is_not_shown() -> None:
    rng = np.random.default_rng(0)
    wish = Wish(named("fire"), "blue", "dark", "large")
    for _ in range(40):
        text, said = caption(wish, rng)
        words = texture.split(text)
        assert agrees(said, wish)
        assert ("blue" in words) >= bool(said.colour)
        assert set(words) <= set(vocabulary())


def test_a_caption_agrees_with_whatever_shows_it() -> None:
    fire, waves = named("fire"), named("waves")
    assert agrees(Wish(fire), Wish(fire, "blue"))
    assert not agrees(Wish(fire, "blue"), Wish(fire))
    assert not agrees(Wish(fire), Wish(waves))


def test_the_contrastive_loss_leaves_out_what_agrees() -> None:
    """Against the definition, row by row, in float64."""
    cosines = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (3, 3)))
    agree = torch.tensor([[True, True, False], [False, True, False], [False, False, True]])
    total = 0.0
    for logits, left_out in ((5 * cosines, agree), (5 * cosines.T, agree.T)):
        for i in range(3):
            rivals = [float(logits[i, j].exp()) for j in range(3) if j == i or not left_out[i, j]]
            total += (np.log(sum(rivals)) - float(logits[i, i])) / 3
    assert contrastive(cosines, torch.tensor(5.0), agree).item() == pytest.approx(total / 2, abs=1e-12)


def test_views_are_what_the_tower_takes() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    found = roughen(pictures, np.random.default_rng(2))
    assert found.shape == (3, 3, texture.SIDE, texture.SIDE)
    assert found.min() >= 0
    assert found.max() <= 1


def test_the_trained_one_finds_looks_on_the_studios_photographs() -> None:
    """Photographs that no training saw; 98 % of 55 looks on others of these, so 80 % leaves room for every CPU."""
    clip = texture.load(TEXTURE_CLIP)
    photos = [np.asarray(Image.open(HERE / f"photos/{name}.jpg").convert("RGB")) for name in ("astronaut", "cat")]
    on = trials(photos, seed=5, rounds=2)
    found = retrieval(clip, on)
    assert found.names >= 0.8
    assert found.pictures >= 0.8
    assert sum(confusions(clip, on).values()) <= 0.2 * 2 * len(LOOKS)


def test_it_is_small_and_knows_its_words() -> None:
    size = sum(path.stat().st_size for path in TEXTURE_CLIP.iterdir())
    assert size < 10 << 20
    clip = clips.opened(TEXTURE_CLIP)
    assert clips.checked(clip, "large dark blue fire")
    assert set(clip.vocabulary) == set(vocabulary())

"""What the second stage learns from: paintings in their styles, and disguised ones in none that has a name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from studio import painter
from studio.painter import STYLE_DESCRIPTORS
from studio.painter.arrays import Floats
from studio.pictures import halved, paint_all
from studio.recipes import upscaler
from studio.recipes.captions import VARIANTS
from studio.recipes.upscaler import DISGUISES, Examples, disguised, lesson_captions

SCENES = painter.training_scenes(3, seed=1)


def test_a_disguise_is_fine_marks_over_a_flat_painting() -> None:
    found = disguised(SCENES, seed=2).astype(np.float32)
    flat = paint_all([replace(scene, style="flat") for scene in SCENES], 256).astype(np.float32)
    assert found.shape == flat.shape
    apart = np.abs(found - flat).mean()
    from_afar = np.abs(blocks(found) - blocks(flat)).mean()
    assert apart > 20 > 2 * from_afar


def blocks(pictures: Floats) -> Floats:
    """The means of 32 x 32 pixels."""
    means: Floats = pictures.reshape(len(pictures), 8, 32, 8, 32, 3).mean((2, 4))
    return means


def test_disguises_differ_and_repeat() -> None:
    one, other = disguised(SCENES[:1] * 2, seed=2)
    assert (one != other).any()
    assert (disguised(SCENES[:1] * 2, seed=2)[1] == other).all()


def test_a_disguise_is_called_by_no_style_that_there_is() -> None:
    captions = lesson_captions(SCENES[:1], SCENES[1:], seed=3)
    assert len(captions) == VARIANTS * len(SCENES)
    known = [f"in {name} style" for name in STYLE_DESCRIPTORS.values()]
    assert not [caption for caption in captions[VARIANTS:] if any(name in caption for name in known)]


def test_disguises_are_a_share_of_the_lessons_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscaler, "DISGUISED", 1)
    tokens = torch.arange(10).view(10, 1, 1)
    captions = torch.zeros(10, VARIANTS, 4, dtype=torch.long)
    torch.manual_seed(0)
    fine, low, _ = Examples(tokens, tokens, captions, captions[0, 0]).draw(4000)
    assert torch.equal(fine, low)
    assert (fine == 9).float().mean().item() == pytest.approx(DISGUISES, abs=0.03)
    assert set(fine.flatten().tolist()) == set(range(10))


def test_halves_are_means_of_squares() -> None:
    pictures = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    assert halved(pictures).shape == (2, 2, 2, 3)
    assert halved(pictures)[0, 0, 0].tolist() == [8, 8, 10]

"""The judge names what is there, and says `unclear` where nothing is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from studio import painter
from studio.painter import Bytes, Scene
from studio.painter.near_misses import miss_object, miss_style
from studio.pictures import SIDE
from studio.reading.judge import IGNORED, UNCLEAR, Doubt, Judge, Labels, Reading, verdict

LABELS = Labels(("cat", "cup", UNCLEAR), ("red", "blue"), ("flat", "glass", UNCLEAR))
CAT = Scene("cat", "red", "plain", "flat", 1)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load()


def painted(scenes: Sequence[Scene], size: int = SIDE) -> Bytes:
    return np.stack([painter.paint(scene, size).image for scene in scenes])


@pytest.mark.parametrize("size", [128, 256])
def test_paintings_of_either_size_are_read_as_what_they_are(judge: Judge, size: int) -> None:
    scenes = painter.any_scenes(64, seed=501)
    read = verdict(judge.read(painted(scenes, size)), scenes)
    assert min(read.object, read.colour, read.style) > 0.85


def test_styles_without_their_marks_are_none(judge: Judge) -> None:
    scenes = [
        replace(scene, style=style) for style in painter.HELD_OUT_STYLES for scene in painter.any_scenes(12, seed=502)
    ]
    fooled = verdict(judge.read(np.stack([miss_style(scene) for scene in scenes])), scenes)
    assert fooled.style < 0.15
    assert verdict(judge.read(painted(scenes)), scenes).style > 0.85


def test_objects_in_pieces_are_none(judge: Judge) -> None:
    scenes = painter.any_scenes(64, seed=503)
    pictures = np.stack([miss_object(scene) for scene in scenes])
    assert verdict(judge.read(pictures), scenes).object < 0.4
    assert np.mean([reading.object == UNCLEAR for reading in judge.read(pictures)]) > 0.5


def test_the_doubtful_is_unclear(judge: Judge) -> None:
    scenes = painter.any_scenes(16, seed=504)
    pictures = painted(scenes)
    doubtful = replace(judge, doubt=Doubt(object=1.01, style=judge.doubt.style)).read(pictures)
    assert {reading.object for reading in doubtful} == {UNCLEAR}
    assert [reading.style for reading in doubtful] == [reading.style for reading in judge.read(pictures)]


def test_a_mirror_image_reads_the_same(judge: Judge) -> None:
    pictures = painted(painter.any_scenes(16, seed=505))
    for one, other in zip(judge.chances(pictures), judge.chances(pictures[:, :, ::-1].copy()), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_what_is_unclear_is_learnt_and_what_is_unsaid_is_not() -> None:
    seen: list[Scene | Reading] = [CAT, replace(CAT, style=UNCLEAR), Reading("?", "blue", "glass")]
    assert LABELS.targets(seen).tolist() == [[0, 0, 0], [0, 0, 2], [IGNORED, 1, 1]]


def test_unclear_is_never_what_was_asked() -> None:
    read = [Reading("cat", "red", UNCLEAR), Reading(UNCLEAR, "blue", "flat")]
    found = verdict(read, [CAT, CAT])
    assert (found.object, found.colour, found.style, found.count) == (0.5, 0.5, 0.5, 2)

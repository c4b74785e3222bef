"""What benchmarks/flicker.py is made of: clips whose motion is known, and the meter."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.flicker import blended, chosen, of_clip
from benchmarks.parts.flicker.clips import HEIGHT, NOISE, WIDTH, Clip, Motion
from benchmarks.parts.flicker.films import made
from benchmarks.parts.flicker.meter import carried, flicker, ghosts, motions_of, sharpness

COUNT = 4


@pytest.fixture(scope="module")
def clips() -> dict[str, Clip]:
    return {clip.name: clip for clip in made(COUNT)}


def truth(clip: Clip) -> list[Motion]:
    assert clip.truth is not None
    return [clip.truth(t) for t in range(1, COUNT)]


@pytest.mark.parametrize("name", ["pan", "zoom", "parallax"])
def test_the_truth_carries_a_frame_to_the_next_one(clips: dict[str, Clip], name: str) -> None:
    clip = clips[name]
    for before, now, motion in zip(clip.frames[:-1], clip.frames[1:], truth(clip), strict=True):
        assert now.shape == (HEIGHT, WIDTH, 3)
        moved = np.abs(now - carried(before, motion.back))
        assert moved[motion.seen].mean() < 2 * NOISE
        assert np.abs(now.astype(float) - before).mean() > 1.5 * moved[motion.seen].mean()
        assert motion.seen.mean() > 0.8
        assert not (motion.seen & motion.fresh).any()


def test_before_a_passing_thing_something_comes_into_sight(clips: dict[str, Clip]) -> None:
    for before, now, motion in zip(
        clips["parallax"].frames[:-1], clips["parallax"].frames[1:], truth(clips["parallax"]), strict=True
    ):
        revealed = motion.fresh & (np.arange(WIDTH) < WIDTH - 5)  # the rest comes in from outside
        assert 100 < revealed.sum() < 2000
        assert np.abs(now - carried(before, motion.back))[revealed].mean() > 20


@pytest.mark.parametrize("name", ["pan", "zoom", "parallax"])
def test_both_flows_find_most_of_it(clips: dict[str, Clip], name: str) -> None:
    found = motions_of(clips[name])
    assert list(found) == ["dis", "farneback", "truth"]
    for who in ("dis", "farneback"):
        for motion, true in zip(found[who], found["truth"], strict=True):
            both = motion.seen & true.seen
            assert both.mean() > 0.6
            assert np.median(np.abs(motion.back - true.back)[both]) < 0.3


def test_flicker_is_what_does_not_move_along(clips: dict[str, Clip]) -> None:
    clip = clips["pan"]
    draw = np.random.default_rng(0)
    unsteady = [
        np.clip(frame + draw.normal(0, 30, (HEIGHT, WIDTH, 1)), 0, 255).astype(np.uint8) for frame in clip.frames
    ]
    assert flicker(unsteady, truth(clip)) > 4 * flicker(clip.frames, truth(clip))
    still = [clip.frames[0]] * COUNT  # what stays in its place while the content moves flickers, too
    assert flicker(still, truth(clip)) > 2 * flicker(clip.frames, truth(clip))


def test_a_blend_leaves_ghosts_and_takes_sharpness(clips: dict[str, Clip]) -> None:
    clip = clips["parallax"]
    found = blended(clip.frames, 0.8)
    left = ghosts(found, clip.frames, truth(clip))
    assert left is not None
    assert left > 10
    assert ghosts(clip.frames, clip.frames, truth(clip)) == 0
    assert sharpness(found) < 0.95 * sharpness(clip.frames)
    assert [one.tolist() for one in blended(clip.frames, 0)] == [one.tolist() for one in clip.frames]


def test_where_nothing_comes_into_sight_there_are_no_ghosts_to_measure() -> None:
    frame = np.zeros((2, 3, 3), np.uint8)
    nothing = Motion(np.zeros((2, 3, 2), np.float32), np.ones((2, 3), np.bool_), np.zeros((2, 3), np.bool_))
    assert ghosts([frame, frame], [frame, frame], [nothing]) is None


def test_a_clip_is_judged_by_its_worst_flow() -> None:
    def ratios(dis: float, truth: float) -> dict[str, object]:
        return {"smoothed": {"ratio": {"dis": dis, "truth": truth}}}

    assert of_clip({"a": ratios(0.2, 0.3), "b": ratios(0.3, 0.6)})["flicker_ratio"] == pytest.approx(0.45)


def test_styles_lie_far_apart_unless_one_says_which() -> None:
    names = [f"{number:02}" for number in range(26)]
    assert chosen(names, []) == ["00", "08", "17"]
    assert chosen(names[:2], []) == ["00", "01"]
    assert chosen(names, ["25"]) == ["25"]

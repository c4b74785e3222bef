"""Motion, how far it's trusted, and paintings that follow it: no flicker, no ghosts, nothing over a cut."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from impasto_client.video.flow import motion
from impasto_client.video.smoothing import Smoother

Pixels = NDArray[np.uint8]

WIDTH, HEIGHT = 160, 120


def scene(seed: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Pixels:
    """RGB with blobs of all sizes, as photographs have them."""
    draw = np.random.default_rng(seed)
    picture = np.zeros((*size, 3), np.float32)
    for cells in (4, 8, 16, 32):
        coarse = draw.normal(0, 1, (cells, cells, 3)).astype(np.float32)
        picture += cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC) * 120 / cells**0.5
    return np.clip(128 + picture, 0, 255).astype(np.uint8)


WORLD = scene(0, (HEIGHT + 40, WIDTH + 40))


def view(x: int, y: int = 10) -> Pixels:
    """A window on the world."""
    return np.ascontiguousarray(WORLD[y : y + HEIGHT, x : x + WIDTH])


def passing(x: int) -> Pixels:
    """A grey square before the world, which stands still."""
    frame = view(10).copy()
    frame[40:80, x : x + 40] = scene(1, (40, 40)) // 2
    return frame


def test_motion_says_where_content_was() -> None:
    found = motion(view(10), view(13))
    inside = found.back[20:-20, 20:-20]
    assert np.abs(inside - [3, 0]).mean() < 0.3
    assert found.trust[20:-20, 20:-20].mean() > 0.9
    assert not found.is_cut


def test_a_picture_is_carried_along_also_at_another_size() -> None:
    found = motion(view(10), view(13))
    for scale in (1, 2):
        before, now = (cv2.resize(view(x), None, fx=scale, fy=scale).astype(np.float32) for x in (10, 13))
        carried = found.carried(before)
        inside = (slice(20 * scale, -20 * scale),) * 2
        assert np.abs(carried - now)[inside].mean() < 0.35 * np.abs(before - now)[inside].mean()


def test_what_comes_into_sight_is_not_trusted() -> None:
    before, now = passing(40), passing(46)
    trust = motion(before, now).trust
    assert trust[45:75, 40:45].mean() < 0.3  # the square was there
    assert trust[45:75, 120:].mean() > 0.9


@pytest.mark.parametrize("noise", [0, 4])
def test_a_cut_is_seen_and_no_motion_or_noise_taken_for_one(noise: int) -> None:
    draw = np.random.default_rng(2)

    def noisy(frame: Pixels) -> Pixels:
        return np.clip(frame + draw.normal(0, noise, frame.shape), 0, 255).astype(np.uint8)

    assert motion(noisy(view(10)), noisy(scene(5))).is_cut
    for frame in (view(10), view(18), view(10, 16), passing(50)):
        assert not motion(noisy(view(10)), noisy(frame)).is_cut


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 3)])
def test_small_frames_have_motion_too(size: tuple[int, int]) -> None:
    frame = np.full((*size, 3), 90, np.uint8)
    assert not motion(frame, frame).is_cut
    painting = Smoother(0.8)
    painting.next(frame, None)
    assert painting.next(frame, motion(frame, frame)).tolist() == frame.tolist()


def flickering(frame: Pixels, seed: int) -> Pixels:
    """A style with strokes of its own in every frame."""
    strokes = np.random.default_rng(seed).normal(0, 30, (HEIGHT, WIDTH, 1))
    return np.clip(frame + strokes, 0, 255).astype(np.uint8)


def smoothed(frames: list[Pixels], paintings: list[Pixels], share: float) -> list[Pixels]:
    smoother = Smoother(share)
    motions = [None, *(motion(before, now) for before, now in itertools.pairwise(frames))]
    return [smoother.next(painting, one) for painting, one in zip(paintings, motions, strict=True)]


def test_strokes_stay_on_what_moves() -> None:
    frames = [view(2 * number) for number in range(8)]
    paintings = [flickering(frame, seed) for seed, frame in enumerate(frames)]

    def unrest(found: list[Pixels]) -> float:
        """By the motion that we know."""
        pairs = itertools.pairwise(found)
        return float(np.mean([np.abs(now[:, :-2].astype(float) - before[:, 2:]).mean() for before, now in pairs]))

    assert unrest(smoothed(frames, paintings, 0.8)) < 0.5 * unrest(paintings)
    assert unrest(smoothed(frames, paintings, 0.8)) < unrest(smoothed(frames, paintings, 0.3)) < unrest(paintings)


def test_no_share_changes_nothing() -> None:
    frames = [view(2 * number) for number in range(4)]
    paintings = [flickering(frame, seed) for seed, frame in enumerate(frames)]
    assert [one.tolist() for one in smoothed(frames, paintings, 0)] == [one.tolist() for one in paintings]


def test_nothing_leaves_a_ghost() -> None:
    frames = [passing(20 + 6 * number) for number in range(8)]
    last = smoothed(frames, frames, 0.8)[-1]
    wake = (slice(45, 75), slice(22, 61))  # where the square has been; there is nothing of it
    naive = np.mean(frames, axis=0)
    assert np.abs(last[wake].astype(float) - frames[-1][wake]).mean() < 3
    assert np.abs(naive[wake] - frames[-1][wake]).mean() > 10


def test_a_cut_resets() -> None:
    frames = [view(10), view(11), scene(5)]
    paintings = [flickering(frame, seed) for seed, frame in enumerate(frames)]
    assert smoothed(frames, paintings, 1)[-1].tolist() == paintings[-1].tolist()


def test_a_painting_of_another_size_begins_anew() -> None:
    smoother = Smoother(1)
    smoother.next(view(10), None)
    larger = cv2.resize(view(11), (200, 150)).astype(np.uint8)
    assert smoother.next(larger, motion(view(10), view(11))).tolist() == larger.tolist()

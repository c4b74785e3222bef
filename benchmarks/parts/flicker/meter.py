"""How much paintings flicker: what differs from the painting before, moved to where its content is now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
from benchmarks.parts.flicker.clips import Clip, Floats, Motion, Pixels

Seeker = Callable[[Pixels, Pixels], Floats]


def flicker(paintings: Sequence[Pixels], motions: Sequence[Motion]) -> float:
    """Levels of 255: mean |out_t - out_{t-1} carried along| where the content was in sight.

    motions[i] is that of frame i + 1.
    """
    found = [
        np.abs(now.astype(np.float32) - carried(before, motion.back))[motion.seen].mean()
        for before, now, motion in zip(paintings[:-1], paintings[1:], motions, strict=True)
    ]
    return float(np.mean(found))


def sharpness(paintings: Sequence[Pixels]) -> float:
    """Mean step from a pixel to the next one: blurring lowers flicker, too."""
    steps = [np.abs(np.diff(one.astype(np.float32), axis=axis)).mean() for one in paintings for axis in (0, 1)]
    return float(np.mean(steps))


def ghosts(smoothed: Sequence[Pixels], plain: Sequence[Pixels], motions: Sequence[Motion]) -> float | None:
    """Levels of 255 that smoothing adds where something came into sight; None where nothing did."""
    pairs = zip(smoothed[1:], plain[1:], motions, strict=True)
    found = [np.abs(one.astype(np.float32) - other)[motion.fresh] for one, other, motion in pairs]
    together = np.concatenate(found)
    return float(together.mean()) if together.size else None


def motions_of(clip: Clip) -> Mapping[str, list[Motion]]:
    """By who says so: DIS, as the smoother asks it, Farneback, and the truth where the clip knows it."""
    pairs = list(zip(clip.frames, clip.frames[1:], strict=False))
    found = {
        name: [_sought(seek, *pair) for pair in pairs] for name, seek in (("dis", _dis), ("farneback", _farneback))
    }
    if clip.truth is not None:
        found["truth"] = [clip.truth(t) for t in range(1, len(clip.frames))]
    return found


def carried(picture: Pixels, back: Floats) -> Floats:
    """`picture` at p + back(p)."""
    return np.asarray(cv2.remap(picture.astype(np.float32), *_places(back), cv2.INTER_LINEAR), dtype=np.float32)


def _places(back: Floats) -> tuple[Floats, Floats]:
    y, x = np.mgrid[0 : back.shape[0], 0 : back.shape[1]].astype(np.float32)
    return x + back[..., 0], y + back[..., 1]


def _sought(seek: Seeker, before: Pixels, now: Pixels) -> Motion:
    """In sight is what comes home within a pixel, there and back again; fresh what misses it by three."""
    first, second = (np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), dtype=np.uint8) for frame in (before, now))
    back, forth = seek(second, first), seek(first, second)
    x, y = _places(back)
    returned = np.stack([cv2.remap(forth[..., axis], x, y, cv2.INTER_LINEAR) for axis in (0, 1)], axis=-1)
    inside = (x >= 0) & (x <= back.shape[1] - 1) & (y >= 0) & (y <= back.shape[0] - 1)
    gap = np.hypot(*np.moveaxis(back + returned, -1, 0))
    return Motion(back, inside & (gap < 1), ~inside | (gap > 3))


def _dis(start: Pixels, end: Pixels) -> Floats:
    seeker = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.asarray(seeker.calc(start, end, None), dtype=np.float32)  # type: ignore[call-overload]


def _farneback(start: Pixels, end: Pixels) -> Floats:
    flow = cv2.calcOpticalFlowFarneback(start, end, None, 0.5, 5, 21, 5, 7, 1.5, 0)  # type: ignore[call-overload]
    return np.asarray(flow, dtype=np.float32)

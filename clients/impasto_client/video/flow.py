"""Estimate how a frame's content moved since the previous frame, and how far to trust that. Needs OpenCV."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

FLOW_SIDE = 512  # pixels of the longer side at which motion is estimated
LEAST_TRUSTED = 0.25  # mean trust below which the frame shows another scene
NOISE = 14.0  # levels of 255 by which the same content may differ, beside the sensor's noise
BLUR = (5, 5)  # pixels, so that noise doesn't count as change

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Motion:
    """The motion from the previous frame to this one, at a reduced size.

    back: float32 [h, w, 2], where each pixel's content was before, in pixels relative to now (x, y).
    trust: float32 [h, w], from 0 (it was not visible, or looked different) to 1.
    """

    back: Floats
    trust: Floats

    @property
    def is_cut(self) -> bool:
        """Whether too little of the previous frame continues."""
        return float(self.trust.mean()) < LEAST_TRUSTED

    def carried(self, picture: Floats) -> Floats:
        """`picture` [H, W, 3] of the previous frame, with its content moved to where it is now."""
        height, width = picture.shape[:2]
        scale = np.array([width / self.back.shape[1], height / self.back.shape[0]], dtype=np.float32)
        return _sampled(picture, _resized(self.back, width, height) * scale, cv2.INTER_CUBIC)

    def trust_at(self, width: int, height: int) -> Floats:
        """The trust at full size, float32 [H, W, 1]."""
        return _resized(self.trust, width, height)[..., None]


def motion(before: Pixels, now: Pixels) -> Motion:
    """The motion between two RGB frames [H, W, 3] of one size."""
    earlier, later = _reduced(before), _reduced(now)
    back, forth = _flow(later, earlier), _flow(earlier, later)
    seen = _sampled(earlier.astype(np.float32), back, cv2.INTER_LINEAR)
    trust = _consistent(back, forth) * _alike(seen, later) * _in_sight(back)
    return Motion(back, _cautious(trust))


def _reduced(frame: Pixels) -> Pixels:
    height, width = frame.shape[:2]
    scale = min(1.0, FLOW_SIDE / max(height, width))
    size = (max(16, round(width * scale)), max(16, round(height * scale)))  # DIS needs a few pixels
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _flow(start: Pixels, end: Pixels) -> Floats:
    """The optical flow, float32 [h, w, 2]: what is at p in `start` is at p + flow in `end`."""
    seeker = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # one for each call, since it has state
    first, second = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (start, end))
    nothing: Any = None  # no initial guess
    return np.asarray(seeker.calc(first, second, nothing), dtype=np.float32)


def _consistent(back: Floats, forth: Floats) -> Floats:
    """Forward-backward consistency (Sundaram et al. 2010): 1 within their bound, falling to 0 at twice that."""
    returned = _sampled(forth, back, cv2.INTER_LINEAR)
    gap = np.square(back + returned).sum(axis=2)
    bound = 0.01 * (np.square(back).sum(axis=2) + np.square(returned).sum(axis=2)) + 0.5
    return np.asarray(np.clip(2 - gap / bound, 0, 1), dtype=np.float32)


def _alike(seen: Floats, now: Pixels) -> Floats:
    difference = np.abs(cv2.blur(seen, BLUR) - cv2.blur(now.astype(np.float32), BLUR)).max(axis=2)
    return np.asarray(np.exp(-np.square(difference / NOISE)), dtype=np.float32)


def _in_sight(back: Floats) -> Floats:
    height, width = back.shape[:2]
    x, y = _places(width, height, back)
    return ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)).astype(np.float32)


def _cautious(trust: Floats) -> Floats:
    """The trust, shrunk by a pixel, and blurred, so that it has no hard edges."""
    return np.asarray(cv2.blur(cv2.erode(trust, np.ones((3, 3), np.uint8)), (3, 3)), dtype=np.float32)


def _resized(values: Floats, width: int, height: int) -> Floats:
    return np.asarray(cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def _sampled(picture: Floats, flow: Floats, how: int) -> Floats:
    """picture(p + flow(p)); beyond the edge, the edge's pixels are repeated."""
    x, y = _places(flow.shape[1], flow.shape[0], flow)
    return np.asarray(cv2.remap(picture, x, y, how, borderMode=cv2.BORDER_REPLICATE), dtype=np.float32)


def _places(width: int, height: int, flow: Floats) -> tuple[Floats, Floats]:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return x + flow[..., 0], y + flow[..., 1]

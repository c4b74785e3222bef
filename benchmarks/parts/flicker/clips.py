"""Clips whose motion is known: windows that wander over photographs, with a sensor's noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

WIDTH, HEIGHT = 448, 320
NOISE = 3.0  # levels of 255, one standard deviation


@dataclass(frozen=True)
class Motion:
    """Of a frame against the one before.

    back: [H, W, 2], where each pixel's content was, relative to now. seen: whether it surely was in sight.
    fresh: whether it surely has come into sight.
    """

    back: Floats
    seen: Mask
    fresh: Mask


@dataclass(frozen=True)
class Clip:
    """`truth(t)` is frame t's motion since frame t - 1, where it is known."""

    name: str
    frames: list[Pixels]
    truth: Callable[[int], Motion] | None = None


def pan(photo: Pixels, count: int) -> Clip:
    """1.7 pixels to the right and 0.6 down in each frame."""
    step = np.array([1.7, 0.6], dtype=np.float32)
    frames = [_noisy(_window(photo, _grid() + t * step), t) for t in range(count)]
    return Clip("pan", frames, lambda t: _motion(np.broadcast_to(step, (HEIGHT, WIDTH, 2)).astype(np.float32)))


def zoom(photo: Pixels, count: int) -> Clip:
    """0.8 % nearer in each frame."""
    middle = np.array([WIDTH / 2, HEIGHT / 2], dtype=np.float32)
    from_middle = _grid() - middle
    frames = [_noisy(_window(photo, middle + from_middle / 1.008**t), t) for t in range(count)]
    return Clip("zoom", frames, lambda t: _motion((from_middle * (1 / 1.008 - 1)).astype(np.float32)))


def parallax(photo: Pixels, before: Pixels, count: int) -> Clip:
    """A round piece of another photo passes before the first one, which moves the other way."""
    far, near = np.array([1.2, 0.0], dtype=np.float32), np.array([-2.6, 0.3], dtype=np.float32)

    def inside(t: int) -> Mask:
        x, y = np.moveaxis(_grid() + t * near, -1, 0)
        return np.asarray(np.hypot((x - 300) / 0.8, y - 160) < 90)

    def frame(t: int) -> Pixels:
        layers = [_window(photo, _grid() + t * far), _window(before, _grid() + t * near)]
        return _noisy(np.where(inside(t)[..., None], layers[1], layers[0]), t)

    def truth(t: int) -> Motion:
        is_near = inside(t)
        back = np.where(is_near[..., None], near, far).astype(np.float32)
        was_hidden = cv2.remap(inside(t - 1).astype(np.uint8), *_places(back), cv2.INTER_NEAREST) == 1
        motion, fresh = _motion(back), was_hidden & ~is_near
        return Motion(back, motion.seen & ~fresh & ~_edge(is_near), fresh)

    return Clip("parallax", [frame(t) for t in range(count)], truth)


def _grid() -> Floats:
    """Each pixel's place, [H, W, 2] as x, y."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    return np.stack([x, y], axis=-1)


def _places(back: Floats) -> tuple[Floats, Floats]:
    there = _grid() + back
    return there[..., 0], there[..., 1]


def _window(photo: Pixels, places: Floats) -> Floats:
    """The photo at these places, mirrored beyond its edges."""
    x, y = np.moveaxis(places.astype(np.float32), -1, 0)
    window = cv2.remap(
        photo, np.ascontiguousarray(x), np.ascontiguousarray(y), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    return np.asarray(window, dtype=np.float32)


def _noisy(frame: Floats, seed: int) -> Pixels:
    noise = np.random.default_rng(seed).normal(0, NOISE, frame.shape)
    return np.clip(np.rint(frame + noise), 0, 255).astype(np.uint8)


def _edge(shape: Mask) -> Mask:
    """Two pixels on either side of it, which are of both layers."""
    whole, around = shape.astype(np.uint8), np.ones((5, 5))
    return np.asarray(cv2.dilate(whole, around) != cv2.erode(whole, around))


def _motion(back: Floats) -> Motion:
    """What is outside of the frame before is fresh."""
    x, y = _places(back)
    inside = (x >= 0) & (x <= WIDTH - 1) & (y >= 0) & (y <= HEIGHT - 1)
    return Motion(back, inside, ~inside)

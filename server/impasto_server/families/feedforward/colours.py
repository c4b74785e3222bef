"""The last step of a painting: resized, faded, blended by masks, and given the photo's colours if asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from impasto_server.families.feedforward.photo import Photo

Pixels = NDArray[np.uint8]

ROWS = 256  # rows blended at a time, which bounds the temporary arrays


@dataclass(frozen=True)
class Painted:
    """What a sampler returns: each lane's picture in the canvas's size, and what is needed to make one picture of them.

    `rests`: for each lane, how much of the photo shows through.
    """

    lanes: tuple[NDArray[np.generic], ...]
    photo: Photo
    rests: tuple[float, ...]
    preserve_color: bool = False

    @property
    def size(self) -> int:
        return self.photo.pixels.size

    def finished(self) -> Pixels:
        """The finished painting, RGB uint8 [H, W, 3]."""
        photo = self.photo
        sized = [_sized(to_pixels(lane), photo) for lane in self.lanes]
        lanes = [_faded(lane, photo, rest) for lane, rest in zip(sized, self.rests, strict=True)]
        painted = masked(lanes, photo.pixels, photo.masks) if photo.masks else lanes[0]
        return recoloured(painted, photo.pixels) if self.preserve_color else painted


def to_pixels(painted: NDArray[np.generic]) -> Pixels:
    """float32 [3, H, W] in 0..1, not clipped → uint8 [H, W, 3], rounded to nearest; uint8 unchanged."""
    if painted.dtype == np.uint8:
        return painted.astype(np.uint8, copy=False)
    found = np.empty((*painted.shape[1:], 3), np.uint8)
    for top in range(0, len(found), ROWS):
        part = cv2.merge([np.ascontiguousarray(plane) for plane in painted[:, top : top + ROWS]])
        np.multiply(part, 255, out=part)
        np.rint(part, out=part)
        found[top : top + ROWS] = np.clip(part, 0, 255, out=part)
    return found


def _sized(pixels: Pixels, photo: Photo) -> Pixels:
    height, width, _ = photo.pixels.shape
    if pixels.shape == photo.pixels.shape:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def _faded(pixels: Pixels, photo: Photo, rest: float) -> Pixels:
    return cv2.addWeighted(pixels, 1 - rest, photo.pixels, rest, 0).astype(np.uint8, copy=False) if rest else pixels


def masked(lanes: Sequence[Pixels], photo: Pixels, masks: Sequence[Pixels]) -> Pixels:
    """Each of `lanes` [H, W, 3] where its mask [H, W] is white. Where several masks are white, their lanes share; where
    none is, the photo shows.
    """
    found = np.empty_like(photo)
    for top in range(0, len(photo), ROWS):
        rows = slice(top, top + ROWS)
        weights = [mask[rows, :, None].astype(np.float32) / 255 for mask in masks]
        total = sum(weights)
        mixed = np.maximum(1 - total, 0) * photo[rows]
        for weight, lane in zip(weights, lanes, strict=True):
            mixed += weight / np.maximum(total, 1) * lane[rows]
        found[rows] = np.clip(np.rint(mixed), 0, 255)
    return found


def recoloured(painted: Pixels, photo: Pixels) -> Pixels:
    """The painting's brightness (Y of BT.601) with the photo's colours (Cb and Cr)."""
    both = cv2.cvtColor(photo, cv2.COLOR_RGB2YCrCb)
    both[..., 0] = cv2.cvtColor(painted, cv2.COLOR_RGB2YCrCb)[..., 0]
    return cv2.cvtColor(both, cv2.COLOR_YCrCb2RGB).astype(np.uint8, copy=False)

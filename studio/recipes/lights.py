"""Other contents in the light of ONE picture: how bright it is at each distance from a line, and what is far from all.

Neon is no texture: its marks are where the content's lines are. So lines are found in the picture (they are brighter
than what is around them), its light is averaged by distance from them, and drawn around the content's own contours.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from studio.painter.arrays import Bytes, Floats, Mask
from studio.painter.palette import LUMA
from studio.painter.scene import Scene
from studio.painter.view import look_at

REACH = 14  # pixels of a 128 px picture: how far from its line a light is followed
CLEAR = 8  # and how far from the object its surroundings begin
BRIGHT = 0.6  # of the brightest: what counts as a line


@dataclass(frozen=True)
class Lights:
    """`lines` is the width of the contours in pixels of a 128 px picture."""

    lines: float = 2.4

    def laid(self, scene: Scene, given: Bytes, plain: Mask, rng: np.random.Generator) -> Bytes:
        """The scene in the light of the picture `given` [h, h, 3], as large as that; nothing of it is left to chance.

        What is `plain` [h, h] says how lines of the surroundings shine, the rest how the object's do.
        """
        view = look_at(scene, len(given))
        unit = len(given) / 128
        picture = given.astype(np.float32) / 255
        away = _distances(view.edges(self.lines) > 0.5)
        around = _falloff(
            picture, cv2.erode(plain.astype(np.uint8), np.ones((3, 3)), iterations=round(CLEAR * unit)) > 0, unit
        )
        inside = _falloff(picture, ~plain, unit).max(1, keepdims=True)
        tube = view.main / view.main.max()
        near = np.clip(cv2.GaussianBlur(view.mask, (0, 0), 1.5 * unit) * 3, 0, 1)[..., None]
        lit = _at(around, away) * (1 - near) + _at(inside, away) * tube * near
        dark = picture[picture @ LUMA <= np.percentile(picture @ LUMA, 10)].mean(0)
        laid: Bytes = np.round(np.clip(np.maximum(lit, dark), 0, 1) * 255).astype(np.uint8)
        return laid


def _falloff(picture: Floats, where: Mask, unit: float) -> Floats:
    """The mean colour [n, 3] at each whole distance in pixels from the lines there."""
    light = picture.max(2)
    lines = (light >= BRIGHT * light[where].max()) & where
    away = np.round(_distances(lines)).astype(int)
    found = [picture[(away == i) & where] for i in range(round(REACH * unit))]
    falloff: Floats = np.stack([part.mean(0) for part in found if len(part)]).astype(np.float32)
    return falloff


def _distances(lines: Mask) -> Floats:
    """Pixels to the nearest line [H, W]."""
    found: Floats = cv2.distanceTransform((~lines).astype(np.uint8), cv2.DIST_L2, 5).astype(np.float32)
    return found


def _at(falloff: Floats, away: Floats) -> Floats:
    """What stands in [n] or [n, c] for each distance [H, W]; what is further away is as the last."""
    found: Floats = falloff[np.minimum(np.round(away).astype(int), len(falloff) - 1)]
    return found

"""From a scene to its picture, contours and depth."""

from dataclasses import dataclass

import numpy as np

from studio.painter.arrays import Bytes
from studio.painter.base_styles import BASE
from studio.painter.held_out_styles import HELD_OUT
from studio.painter.scene import Scene
from studio.painter.view import look_at

DEPTH_STEP = 36
PAINTERS = BASE | HELD_OUT


@dataclass(frozen=True)
class Painting:
    """image uint8 [H, W, 3]; edges uint8 [H, W], contours of the shapes; depth uint8 [H, W], 0 far, larger is nearer.

    Edges and depth depend on the geometry only, never on the style.
    """

    image: Bytes
    edges: Bytes
    depth: Bytes


def paint(scene: Scene, size: int = 128) -> Painting:
    """Paint one scene at size x size; the same scene gives the same bytes."""
    view = look_at(scene, size)
    picture = PAINTERS[scene.style](view, np.random.default_rng([scene.seed, 1]))
    depth = view.lookup(view.depths * DEPTH_STEP)
    return Painting(*(np.round(np.clip(a, 0, 1) * 255).astype(np.uint8) for a in (picture, view.edges(1.5), depth)))

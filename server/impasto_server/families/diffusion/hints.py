"""A request's pictures → the ControlNet's hint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from impasto_server.errors import InvalidArgument
from impasto_server.families.diffusion.manifest import Control
from impasto_server.pictures.content import depth, edges, pixels_of
from impasto_server.request import Request
from impasto_server.turns import Work

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Hint:
    """A ControlNet's input: `pixels` [3, H, W] in 0..1 at the picture's size, and its strength `scale`."""

    pixels: Array
    scale: float


@dataclass(frozen=True)
class Hints:
    """Makes hints for a bundle's ControlNet, if it has one."""

    control: Control | None

    def read(self, request: Request, pixels: NDArray[np.uint8] | None) -> Work[Hint | None]:
        """A hint from the content's `pixels` and the request's depth; None where there is nothing to steer with.

        Raises InvalidArgument for a missing or unusable picture.
        """
        if (
            self.control is None
            or not request.content.control_scale
            or (pixels is None and request.content.depth is None)
        ):
            return None
        if request.content.depth is not None and "depth" not in self.control.channels:
            raise InvalidArgument("DEPTH", "means nothing to this bundle's ControlNet", "leave it out")
        found = {
            "edges": None if pixels is None else edges(pixels),
            "depth": (yield from _depth(request)),
        }
        channels = [_channel(name, found[name], request, self.control) for name in self.control.channels]
        return Hint(np.stack(channels), request.content.control_scale)


def _depth(request: Request) -> Work[Array | None]:
    if request.content.depth is None:
        return None
    yield pixels_of(request.content.depth, request.ranking.style_image)
    return depth(request.content.depth, "DEPTH", request.size.width, request.size.height)


def _channel(name: Literal["edges", "depth"], found: Array | None, request: Request, control: Control) -> Array:
    if found is not None:
        return found
    if name in control.optional:
        return np.zeros((request.size.height, request.size.width), np.float32)
    if name == "edges":
        raise InvalidArgument("IMAGE", "is missing, but the ControlNet reads its edges", "pass it, or leave DEPTH out")
    raise InvalidArgument("DEPTH", "is missing, but the ControlNet reads it", "pass it, or CONTROL_SCALE 0")

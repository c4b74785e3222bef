"""A request's pictures → what the backbone is conditioned on: the content as a sample, and the ControlNet's hint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from impasto_server.backbone import Hint
from impasto_server.bundle import Control
from impasto_server.errors import InvalidArgument
from impasto_server.pictures.content import depth, edges, pixels_in, pixels_to_model, read_image
from impasto_server.request import Request
from impasto_server.turns import Work


@dataclass(frozen=True)
class Conditions:
    """What a request's pictures came to: the `clean` sample of the content, and what steers the ControlNet."""

    clean: NDArray[Any] | None = None
    hint: Hint | None = None


class Encoder(Protocol):
    """Pixels → what is sampled."""

    def encode(self, pixels: NDArray[np.float32]) -> NDArray[Any]:
        """RGB [3, H, W] in [-1, 1] → latents [C, h, w] or tokens [h, w]."""
        ...


def pixels_of(*files: bytes | None) -> int:
    """Of all files that are there, by their headers."""
    return sum(pixels_in(file) for file in files if file is not None)


def largest(request: Request) -> int:
    """Pixels of the largest file, by its header."""
    return max(pixels_of(file) for file in request.files)


class Conditioner:
    """Pictures of a request → clean sample and hint."""

    def __init__(self, encoder: Encoder, control: Control | None) -> None:
        self._encoder = encoder
        self._control = control

    def read(self, request: Request) -> Work[Conditions]:
        """A picture a turn. Raises InvalidArgument for one that can't be used, and for one that is missing."""
        pixels = yield from self._image(request)
        clean = None if pixels is None else self._encoder.encode(pixels_to_model(pixels))
        return Conditions(clean, (yield from self._hint(request, pixels)))

    def _image(self, request: Request) -> Work[NDArray[np.uint8] | None]:
        if request.content.image is None:
            return None
        yield pixels_of(*request.files)
        return read_image(request.content.image, "IMAGE", request.size.width, request.size.height)

    def _depth(self, request: Request) -> Work[NDArray[np.float32] | None]:
        if request.content.depth is None:
            return None
        yield pixels_of(request.content.depth, request.ranking.style_image)
        return depth(request.content.depth, "DEPTH", request.size.width, request.size.height)

    def _hint(self, request: Request, pixels: NDArray[np.uint8] | None) -> Work[Hint | None]:
        if (
            self._control is None
            or not request.content.control_scale
            or (pixels is None and request.content.depth is None)
        ):
            return None
        if request.content.depth is not None and "depth" not in self._control.channels:
            raise InvalidArgument("DEPTH", "means nothing to this bundle's ControlNet", "leave it out")
        found = {
            "edges": None if pixels is None else edges(pixels),
            "depth": (yield from self._depth(request)),
        }
        return Hint(
            np.stack([self._channel(name, found[name], request) for name in self._control.channels]),
            request.content.control_scale,
        )

    def _channel(
        self, name: Literal["edges", "depth"], found: NDArray[np.float32] | None, request: Request
    ) -> NDArray[np.float32]:
        assert self._control is not None
        if found is not None:
            return found
        if name in self._control.optional:
            return np.zeros((request.size.height, request.size.width), np.float32)
        if name == "edges":
            raise InvalidArgument(
                "IMAGE", "is missing, and the ControlNet reads its edges", "pass it, or leave DEPTH out"
            )
        raise InvalidArgument("DEPTH", "is missing, and the ControlNet reads it", "pass it, or CONTROL_SCALE 0")

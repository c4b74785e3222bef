"""A request's photo and masks: the size it is painted in, and the canvas that the net takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from impasto_server.errors import InvalidArgument
from impasto_server.families.feedforward.manifest import MAX_SIDE
from impasto_server.pictures.content import pixels_in, read_mask, read_photo, size_of
from impasto_server.request import Request
from impasto_server.turns import Work

Pixels = NDArray[np.uint8]
Size = tuple[int, int]  # width and height


@dataclass(frozen=True)
class Bounds:
    """The most pixels of a `painting`, and of a `canvas`, which the net takes."""

    painting: int
    canvas: int


@dataclass(frozen=True)
class Photo:
    """`pixels` [H, W, 3] in the painting's size; the `canvas` [h, w, 3] in DETAIL times that size; `masks` [H, W],
    white where to paint. `problem` is a warning about its colour profile, or "".
    """

    pixels: Pixels
    canvas: Pixels
    masks: tuple[Pixels, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Sizes:
    """The sizes of the photo (`own`, after EXIF's turn), of the painting and of the canvas."""

    own: Size
    painting: Size
    canvas: Size

    @classmethod
    def of(cls, request: Request, bounds: Bounds) -> Sizes:
        """The sizes, by the photo's header. Raises InvalidArgument where they are too large."""
        own = size_of(_photo(request), "IMAGE")
        painting = _sized(own, request, bounds)
        return cls(own, painting, _seen(painting, request, bounds))

    @property
    def decoded(self) -> Size:
        """The size to decode the photo in: the painting's, or a larger canvas's if the photo is reduced."""
        reduced = max(self.own) > max(self.painting)
        return max(self.painting, self.canvas, key=max) if reduced else self.painting


def read(request: Request, bounds: Bounds) -> Work[Photo]:
    """Read the photo and its masks, one a turn; all sizes are checked before anything is decoded.

    Raises InvalidArgument.
    """
    data, masks = _photo(request), request.own["MASKS"]
    sizes = Sizes.of(request, bounds)
    _check_masks(masks, sizes.own)
    yield pixels_in(data)
    held, problem = read_photo(data, "IMAGE", sizes.decoded)
    pixels, canvas = _resized(held, sizes.painting), _resized(held, sizes.canvas)
    found = []
    for mask in masks:
        yield pixels_in(mask)
        found.append(read_mask(mask, "MASKS", sizes.painting))
    return Photo(pixels, canvas, tuple(found), problem)


def _photo(request: Request) -> bytes:
    assert request.content.image is not None, "the offer needs IMAGE"
    return request.content.image


def _sized(own: Size, request: Request, bounds: Bounds) -> Size:
    """The painting's size."""
    side = request.own["LONG_SIDE"]
    size = own if side is None else scaled(own, side / max(own))
    if max(size) <= MAX_SIDE and size[0] * size[1] <= bounds.painting:
        return size
    longest = min(MAX_SIDE, int(max(own) * sqrt(bounds.painting / (own[0] * own[1]))))
    most = f"at most {bounds.painting} pixels and {MAX_SIDE} per side"
    if side is None:
        raise InvalidArgument(
            "IMAGE", f"is {_said(own)}, but {most} can be painted", f"pass LONG_SIDE {longest} or less"
        )
    raise InvalidArgument(
        "LONG_SIDE", f"{side} makes {_said(size)}, but {most} can be painted", f"pass {longest} or less"
    )


def _seen(size: Size, request: Request, bounds: Bounds) -> Size:
    """The canvas's size."""
    detail = request.own["DETAIL"]
    seen = scaled(size, detail)
    if seen[0] * seen[1] <= bounds.canvas:
        return seen
    if detail > 1 and size[0] * size[1] <= bounds.canvas:
        most = int(100 * sqrt(bounds.canvas / (size[0] * size[1]))) / 100
        problem = f"{detail:g} paints a picture of {_said(size)} at {_said(seen)}, more than {bounds.canvas} pixels"
        raise InvalidArgument("DETAIL", problem, f"pass {most:g} or less, or a smaller LONG_SIDE")
    problem = f"is painted at {_said(seen)}, but this bundle paints at most {bounds.canvas} pixels"
    longest = int(max(size) * sqrt(bounds.canvas / (seen[0] * seen[1])))
    raise InvalidArgument("IMAGE", problem, f"pass LONG_SIDE {longest} or less")


def _check_masks(masks: Sequence[bytes], own: Size) -> None:
    for mask in masks:
        size = size_of(mask, "MASKS")
        if size != own:
            problem = f"one is {_said(size)}, but the photo is {_said(own)}"
            raise InvalidArgument("MASKS", problem, "pass masks of the photo's own size")


def _resized(pixels: Pixels, size: Size) -> Pixels:
    if pixels.shape[1::-1] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def scaled(size: Size, factor: float) -> Size:
    """`size` times `factor`, at least one pixel per side."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _said(size: Size) -> str:
    return f"{size[0]} x {size[1]}"

"""BASE_IMAGE: a picture in place of the one that the base would paint."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from impasto_server.bundle import ImageSize
from impasto_server.errors import InvalidArgument
from impasto_server.families.masked.offer import BASE_IMAGE
from impasto_server.pictures.content import pixels_of, read_image, size_of
from impasto_server.request import Request
from impasto_server.turns import Work


def base_image(request: Request, zoom: int, sizes: ImageSize) -> Work[NDArray[np.uint8] | None]:
    """RGB [H, W, 3] at 1 / `zoom` of the request's size; None without one. `sizes` are those that requests may have.

    Raises InvalidArgument; for another size before decoding, since cropping or scaling would change the picture.
    """
    data, name = request.own[BASE_IMAGE.name], BASE_IMAGE.name
    if data is None:
        return None
    width, height = request.size.width // zoom, request.size.height // zoom
    found = size_of(data, name)
    if found != (width, height):
        problem = f"is {found[0]} x {found[1]}, but this WIDTH and HEIGHT need {width} x {height}"
        wide, high = zoom * found[0], zoom * found[1]
        instead = f", or WIDTH {wide} and HEIGHT {high}" if sizes.allows(wide, high) else ""
        raise InvalidArgument(name, problem, f"pass a picture of that size{instead}")
    yield pixels_of(data)
    return read_image(data, name, width, height)

"""The picture that takes the place of what the base paints."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from impasto_server.errors import InvalidArgument
from impasto_server.families.masked.offer import BASE_IMAGE
from impasto_server.pictures.content import pixels_of, read_image, size_of
from impasto_server.request import Request
from impasto_server.turns import Work


def base_image(request: Request, zoom: int) -> Work[NDArray[np.uint8] | None]:
    """RGB [H, W, 3] of 1 / `zoom` of the request's size; None without one.

    Raises InvalidArgument, before it's decoded for one of another size: cut or scaled it would be nobody's painting.
    """
    data, name = request.own[BASE_IMAGE.name], BASE_IMAGE.name
    if data is None:
        return None
    width, height = request.size.width // zoom, request.size.height // zoom
    found = size_of(data, name)
    if found != (width, height):
        problem = f"is {found[0]} x {found[1]}, and WIDTH x HEIGHT is painted over one of {width} x {height}"
        fix = f"pass one of that size, or say WIDTH {zoom * found[0]} and HEIGHT {zoom * found[1]}"
        raise InvalidArgument(name, problem, fix)
    yield pixels_of(data)
    return read_image(data, name, width, height)

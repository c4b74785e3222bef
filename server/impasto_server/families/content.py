"""A request's content image, for families that can start from one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from impasto_server.pictures.content import pixels_of, read_image
from impasto_server.request import Request
from impasto_server.turns import Work


def content(request: Request, zoom: int = 1) -> Work[NDArray[np.uint8] | None]:
    """RGB [H, W, 3] at 1 / `zoom` of the request's size; None without an image. Raises InvalidArgument for an unusable
    image.
    """
    if request.content.image is None:
        return None
    yield pixels_of(*request.files)
    return read_image(request.content.image, "IMAGE", request.size.width // zoom, request.size.height // zoom)

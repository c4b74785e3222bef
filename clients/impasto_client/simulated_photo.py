"""The answer of a FakeTransport for a photo."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from impasto_client.errors import InvalidRequest
from impasto_client.simulation import account, digest_of, file_of, names_in
from impasto_client.wire import Tensors


def painted(tensors: Tensors, warnings: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The outputs of model `stylize` for a request without a prompt: the photo between a dark colour and a light one,
    which depend on all of the request but the photo. Raises InvalidRequest for a photo that can't be decoded.
    """
    photo = _sized(_opened(tensors), _number(tensors, "LONG_SIDE"))
    dark, light = _colours(tensors)
    picture = ImageOps.colorize(photo.convert("L"), dark, light)
    format = (names_in(tensors, "FORMAT") or ["png"])[0]
    return {
        "IMAGE": np.array([file_of(picture, format)], dtype=np.object_),
        "SEED": np.array([0], dtype=np.int64),
        "META": np.array([json.dumps(_meta(tensors, picture, warnings)).encode()], dtype=np.object_),
    }


def _opened(tensors: Tensors) -> Image.Image:
    try:
        return ImageOps.exif_transpose(Image.open(io.BytesIO(tensors["IMAGE"].item())))
    except (OSError, ValueError):
        raise InvalidRequest("IMAGE: is no PNG, JPEG or WebP file; pass the bytes of one", "IMAGE") from None


def _sized(photo: Image.Image, long_side: float | None) -> Image.Image:
    if long_side is None:
        return photo
    scale = long_side / max(photo.size)
    return photo.resize((max(1, round(photo.width * scale)), max(1, round(photo.height * scale))))


def _colours(tensors: Tensors) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    told = sorted((name, tensor.tolist()) for name, tensor in tensors.items() if name != "IMAGE")
    red, green, blue, *light = hashlib.sha256(repr(told).encode()).digest()[:6]
    return (red // 3, green // 3, blue // 3), (255 - light[0] // 3, 255 - light[1] // 3, 255 - light[2] // 3)


def _number(tensors: Tensors, field: str) -> float | None:
    return tensors[field].item() if field in tensors else None


def _meta(tensors: Tensors, picture: Image.Image, warnings: tuple[str, ...]) -> dict[str, object]:
    """META; numbers are the request's, or the table's defaults."""
    names, files = names_in(tensors, "ADAPTER_NAMES"), _files(tensors, "STYLE_IMAGES")
    each = [1 / max(1, len(names) + len(files))]
    weights = _numbers(tensors, "ADAPTER_WEIGHTS", each * len(names))
    numbers = {field: _number(tensors, field) for field in ("STRENGTH", "DETAIL", "PRESERVE_COLOR", "LONG_SIDE")}
    usual = {"STRENGTH": 1.0, "DETAIL": 1.0, "PRESERVE_COLOR": False}
    return {
        **account(warnings),
        "adapters": [
            {"name": name, "digest": digest_of(name.encode()), "weight": weight}
            for name, weight in zip(names, weights, strict=True)
        ],
        "style_images": [digest_of(file) for file in files],
        "style_image_weights": _numbers(tensors, "STYLE_IMAGE_WEIGHTS", each * len(files)),
        "masks": [digest_of(file) for file in _files(tensors, "MASKS")],
        **{field.lower(): usual.get(field) if said is None else said for field, said in numbers.items()},
        "width": picture.width,
        "height": picture.height,
    }


def _files(tensors: Tensors, field: str) -> list[bytes]:
    return list(tensors[field]) if field in tensors else []


def _numbers(tensors: Tensors, field: str, usual: list[float]) -> list[float]:
    found: list[float] = tensors[field].tolist() if field in tensors else usual
    return found

"""Latents → pixels → an encoded file."""

from __future__ import annotations

from io import BytesIO
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from impasto_server.bundle import Latents
from impasto_server.engine import Engine

_OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"compress_level": 3},
    "jpeg": {"quality": 95, "subsampling": 0},
    "webp": {"lossless": True},
}
FORMATS = tuple(_OPTIONS)


class Decoder:
    """The VAE decoder: latents [C, h, w] as the sampler leaves them → RGB uint8 [H, W, 3]."""

    def __init__(self, engine: Engine, latents: Latents) -> None:
        self._engine = engine
        self._latents = latents
        self._lock = Lock()

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
        unscaled = latents / np.float32(self._latents.scaling_factor) + np.float32(self._latents.shift_factor)
        with self._lock:
            (image,) = self._engine.run({"latents": unscaled[None]})
        return to_uint8(image[0])


def to_uint8(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[3, H, W] in [-1, 1] → [H, W, 3], rounded to nearest as diffusers' VaeImageProcessor does."""
    unit = np.clip(image.transpose(1, 2, 0) / 2 + 0.5, 0, 1)
    return (unit * 255).round().astype(np.uint8)


def encode(pixels: NDArray[np.uint8], file_format: str) -> bytes:
    """RGB uint8 [H, W, 3] → the bytes of a PNG, JPEG (quality 95, no chroma subsampling) or lossless WebP file."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, file_format, **_OPTIONS[file_format])
    return file.getvalue()

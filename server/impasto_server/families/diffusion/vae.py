"""The VAE: latents → pixels, pixels → latents, and latents → a small preview."""

from __future__ import annotations

from functools import cached_property
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.seat import SeatedEngine
from impasto_server.families.diffusion.manifest import Latents
from impasto_server.pictures.image import encode, to_uint8

SAMPLE = 16  # latents per side of the samples that the preview is fitted to


class Decoder:
    """The VAE decoder: latents [C, h, w] as the sampler leaves them → RGB uint8 [H, W, 3]."""

    def __init__(self, engine: SeatedEngine, latents: Latents) -> None:
        self._engine = engine
        self._latents = latents
        self._lock = Lock()

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
        unscaled = latents / np.float32(self._latents.scaling_factor) + np.float32(self._latents.shift_factor)
        with self._lock:
            (image,) = self._engine.run({"latents": unscaled[None]})
        return to_uint8(image[0])


class Encoder:
    """The VAE encoder: RGB [3, H, W] in [-1, 1] → the posterior's mean, latents [C, h, w] as the sampler takes them."""

    def __init__(self, engine: SeatedEngine, latents: Latents) -> None:
        self._engine = engine
        self._latents = latents
        self._lock = Lock()

    def encode(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._lock:
            mean, _ = self._engine.run({"image": pixels[None]})
        scaled = (mean[0] - np.float32(self._latents.shift_factor)) * np.float32(self._latents.scaling_factor)
        return np.asarray(scaled, np.float32)


class Previewer:
    """Latents → a small picture with one pixel for each: the linear map that comes nearest to the decoder.

    It is fitted to the decoder's outputs at the first preview, so any VAE has previews without a table of factors.
    """

    def __init__(self, decoder: Decoder, latents: Latents) -> None:
        self._decoder = decoder
        self._latents = latents

    def preview(self, latents: NDArray[np.float32]) -> bytes:
        """[C, h, w] → an RGB PNG of h x w pixels."""
        flat = _with_one(latents) @ self._colours
        pixels = flat.reshape(*latents.shape[1:], 3).clip(0, 255).round().astype(np.uint8)
        return encode(pixels, "png")

    @cached_property
    def _colours(self) -> NDArray[np.float64]:
        """[C + 1, 3]: the least-squares map from latents to the mean colours of the squares that they become."""
        channels, factor = self._latents.channels, self._latents.factor
        rough = np.random.default_rng(0).standard_normal((channels, SAMPLE, SAMPLE), np.float32)
        smooth = np.repeat(np.repeat(rough[:, ::4, ::4], 4, axis=1), 4, axis=2)  # pictures have smooth areas, too
        rows, colours = [], []
        for sample in (rough, smooth):
            pixels = self._decoder.decode(sample).astype(np.float64)
            squares = pixels.reshape(SAMPLE, factor, SAMPLE, factor, 3).mean(axis=(1, 3))
            rows.append(_with_one(sample))
            colours.append(squares.reshape(-1, 3))
        nearest: NDArray[np.float64] = np.linalg.lstsq(np.concatenate(rows), np.concatenate(colours), rcond=None)[0]
        return nearest


def _with_one(latents: NDArray[np.float32]) -> NDArray[np.float64]:
    """[C, h, w] → rows [h·w, C + 1] with a constant last column."""
    rows = latents.reshape(len(latents), -1).T.astype(np.float64)
    return np.hstack([rows, np.ones((len(rows), 1))])

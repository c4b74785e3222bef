"""A stage's pictures, as tokens and as pixels, and the VQ model between them."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.adapted import AdaptedEngine
from impasto_server.families.masked.maskgit import Codes
from impasto_server.pictures.image import encode, to_uint8


@dataclass(frozen=True)
class Painted:
    """A stage's tokens, int64 [h, w]."""

    stage: str
    tokens: Codes

    @property
    def size(self) -> int:
        return self.tokens.size

    @property
    def nbytes(self) -> int:
        return self.tokens.nbytes


class Decoder:
    """A VQ model's decoder: tokens → pixels. Safe from any thread."""

    def __init__(self, engine: AdaptedEngine) -> None:
        self._engine = engine
        self._lock = Lock()

    def decode(self, tokens: Codes) -> NDArray[np.uint8]:
        """int64 [h, w] → RGB [H, W, 3]."""
        with self._lock:
            (image,) = self._engine.run({"tokens": tokens[None]})
        return to_uint8(2 * image[0] - 1)  # the graph's pixels are 0 to 1

    def preview(self, tokens: Codes) -> bytes:
        """An RGB PNG with one pixel for each token: the mean of the pixels that it becomes."""
        (rows, columns), picture = tokens.shape, self.decode(tokens)
        squares = picture.reshape(rows, len(picture) // rows, columns, -1, 3)
        return encode(squares.mean(axis=(1, 3)).round().astype(np.uint8), "png")


class Encoder:
    """A VQ model's encoder: pixels → tokens. Safe from any thread."""

    def __init__(self, engine: AdaptedEngine) -> None:
        self._engine = engine
        self._lock = Lock()

    def encode(self, pixels: NDArray[np.float32]) -> Codes:
        """RGB [3, H, W] in [-1, 1] → tokens [h, w]."""
        with self._lock:
            (tokens,) = self._engine.run({"image": (pixels[None] + 1) / 2})
        found: Codes = tokens[0]
        return found

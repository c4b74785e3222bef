"""A style's picture → its vector, by the bundle's predictor, with a cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from impasto_server.adapters.graphs import Graphs
from impasto_server.cache import BytesLru
from impasto_server.errors import ImpastoError
from impasto_server.families.feedforward.manifest import PREDICTOR, FeedforwardManifest
from impasto_server.pictures.content import pixels_in, read_middle
from impasto_server.turns import Work

Array = NDArray[np.float32]

KEPT_BYTES = 32 << 20  # of cached vectors


@dataclass(frozen=True)
class Guess:
    """The `vector` [N] of a picture's style; `problem` is a warning about its colour profile, or ""."""

    vector: Array
    problem: str = ""


class Predictor:
    """The predictor. Safe to use from several threads; the engine runs one picture at a time."""

    def __init__(self, manifest: FeedforwardManifest, graphs: Graphs) -> None:
        self._engine = graphs.compiled(PREDICTOR)
        port = manifest.graphs[PREDICTOR].inputs[0]
        self._name, self.side = port.name, int(port.shape[-1])
        self._known: BytesLru[str, Guess] = BytesLru(KEPT_BYTES)
        self._lock, self._running = Lock(), Lock()

    def warm(self) -> None:
        self._run(np.zeros((self.side, self.side, 3), np.uint8))

    def of_file(self, data: bytes, field: str) -> Work[Guess]:
        """The guess for an encoded picture; decoding takes one turn, predicting another.

        Raises InvalidArgument for a file that can't be used.
        """
        digest = hashlib.sha256(data).hexdigest()
        known = self._remembered(digest)
        if known is not None:
            return known
        yield pixels_in(data)
        pixels, problem = read_middle(data, field, (self.side, self.side))
        return (yield from self._predicted(pixels, problem, digest))

    def of_photo(self, pixels: NDArray[np.uint8], data: bytes) -> Work[Guess]:
        """The guess for a photo [H, W, 3] that was decoded from `data`."""
        digest = f"{hashlib.sha256(data).hexdigest()} {pixels.shape}"
        known = self._remembered(digest)
        if known is not None:
            return known
        square = ImageOps.fit(Image.fromarray(pixels), (self.side, self.side), Image.Resampling.LANCZOS)
        return (yield from self._predicted(np.asarray(square), "", digest))

    def _remembered(self, digest: str) -> Guess | None:
        with self._lock:
            return self._known.get(digest)

    def _predicted(self, pixels: NDArray[np.uint8], problem: str, digest: str) -> Work[Guess]:
        yield pixels.size
        found = Guess(self._run(pixels), problem)
        if not np.isfinite(found.vector).all():
            raise ImpastoError("the predictor's vector has NaN or infinity; start the server with --precision f32")
        with self._lock:
            self._known.put(digest, found, found.vector.nbytes)
        return found

    def _run(self, pixels: NDArray[np.uint8]) -> Array:
        picture = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)[None] / 255
        with self._running:
            (found,) = self._engine.run({self._name: picture})
        vector: Array = found[0]
        return vector

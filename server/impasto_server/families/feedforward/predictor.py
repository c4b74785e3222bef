"""A style's picture → its vector, by the bundle's predictor; once for each picture while it is remembered."""

from __future__ import annotations

import hashlib
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from impasto_server.adapters.graphs import Graphs
from impasto_server.cache import BytesLru
from impasto_server.errors import ImpastoError
from impasto_server.families.feedforward.manifest import PREDICTOR, FeedforwardManifest
from impasto_server.pictures.content import pixels_in, read_photo
from impasto_server.turns import Work

Array = NDArray[np.float32]

KEPT_BYTES = 32 << 20  # of vectors


class Predictor:
    """Used by several threads: the engine runs one picture at a time."""

    def __init__(self, manifest: FeedforwardManifest, graphs: Graphs) -> None:
        self._engine = graphs.compiled(PREDICTOR)
        port = manifest.graphs[PREDICTOR].inputs[0]
        self._name, self.side = port.name, int(port.shape[-1])
        self._known: BytesLru[str, Array] = BytesLru(KEPT_BYTES)
        self._lock, self._running = Lock(), Lock()

    def warm(self) -> None:
        self._run(np.zeros((self.side, self.side, 3), np.uint8))

    def of_file(self, data: bytes, field: str) -> Work[Array]:
        """The vector [N] of an encoded picture; decoding it is one turn, and predicting another.

        Raises InvalidArgument for a file that can't be used.
        """
        digest = hashlib.sha256(data).hexdigest()
        known = self._remembered(digest)
        if known is not None:
            return known
        yield pixels_in(data)
        pixels, _ = read_photo(data, field, (self.side, self.side))
        return (yield from self._predicted(pixels, digest))

    def of_pixels(self, pixels: NDArray[np.uint8], data: bytes) -> Work[Array]:
        """That of a photo [H, W, 3] which was decoded from `data`."""
        digest = hashlib.sha256(data).hexdigest()
        known = self._remembered(digest)
        if known is not None:
            return known
        square = ImageOps.fit(Image.fromarray(pixels), (self.side, self.side), Image.Resampling.LANCZOS)
        return (yield from self._predicted(np.asarray(square), digest))

    def _remembered(self, digest: str) -> Array | None:
        with self._lock:
            return self._known.get(digest)

    def _predicted(self, pixels: NDArray[np.uint8], digest: str) -> Work[Array]:
        yield pixels.size
        vector = self._run(pixels)
        if not np.isfinite(vector).all():
            raise ImpastoError("the predictor made NaN of a style's picture; start the server with --precision f32")
        with self._lock:
            self._known.put(digest, vector, vector.nbytes)
        return vector

    def _run(self, pixels: NDArray[np.uint8]) -> Array:
        picture = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)[None] / 255
        with self._running:
            (found,) = self._engine.run({self._name: picture})
        vector: Array = found[0]
        return vector

"""The backbone that paints pictures whole, and frees the memory that a large one took."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.adapted import AdaptedEngine
from impasto_server.backbone import Backbone, Feeds, Row

# The most pixels of a batch, at 350 bytes of memory a pixel and more; batching gains next to nothing.
BATCH_PIXELS = 1 << 20
# The largest picture whose pass keeps its memory for the next; allocating it again costs a pass an eighth more.
KEPT_PIXELS = 2 << 20


class Whole(Backbone):
    """A sample is a picture, RGB uint8 [3, H, W]."""

    def __init__(self, engines: Sequence[AdaptedEngine], feeds: Callable[[Sequence[Row]], Feeds]) -> None:
        super().__init__(engines, feeds, 3 * BATCH_PIXELS)
        self._releasing = engines

    def run(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        found = super().run(rows)
        if rows[0].ask.sample.size > 3 * KEPT_PIXELS:
            self.release()
        return found

    def release(self) -> None:
        """As Engine.release."""
        for engine in self._releasing:
            engine.release()

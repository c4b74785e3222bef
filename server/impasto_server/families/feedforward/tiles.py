"""Painting in tiles, for pictures that are too large to be painted whole: the net runs layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.seat import Seat
from impasto_server.backbone import Backbone, Row
from impasto_server.engines.engine import item_bytes
from impasto_server.engines.footprint import free_memory
from impasto_server.families.family import Parts
from impasto_server.families.feedforward.frame import Frame
from impasto_server.families.feedforward.manifest import FeedforwardManifest
from impasto_server.families.feedforward.painting import Painting
from impasto_server.families.feedforward.pieces import Pieces
from impasto_server.families.feedforward.plan import SIDE, Plan, largest, planes, plans
from impasto_server.families.feedforward.stages import stages
from impasto_server.families.feedforward.styles import Style, vector_in
from impasto_server.settings import Precision
from impasto_server.steps import Ask

Pixels = NDArray[np.uint8]
Array = NDArray[np.float32]

WHOLE = 4 << 20  # the most pixels of a picture that one pass paints
# PASS is the bytes that a pass over a whole picture may take, or 1 / PASS_SHARE of the memory that is free at the start
# if that is more; tiles take up to five times as long. LAYERS is the bytes that the layers of a picture in tiles may
# take. PASS_BYTES is what a pass takes for each pixel and each channel of the widest layer that is as large as the
# picture, measured with OpenVINO. A net of 16, 32 and 64 channels has, at 24 million pixels, layers of 0.58 GB in bf16,
# and of 0.77 GB in f32, where more is computed again.
PASS, PASS_SHARE, LAYERS = 1_100_000_000, 8, 1_000_000_000
PASS_BYTES: Mapping[Precision, int] = MappingProxyType({"bf16": 15, "f32": 22})


@dataclass(frozen=True)
class Tiles:
    """Painting in tiles for a bundle with pieces. `backbones` are compiled when the first large picture comes."""

    backbones: Mapping[str, Backbone]
    pieces: Pieces
    frame: Frame
    precision: Precision
    whole: int  # the most pixels of a picture that is painted whole
    layers: int  # the most bytes of a picture's layers
    side: int

    @classmethod
    def of(cls, parts: Parts, manifest: FeedforwardManifest, begun: Callable[[], None]) -> Tiles | None:
        """None for a bundle without pieces. `begun` is called from the step loop before a picture's first tile. Raises
        SetupError.
        """
        pieces = manifest.pieces
        if pieces is None:
            return None
        own = None if pieces.vector is None else vector_in(parts.bundle, pieces.vector, "vector", pieces.numbers)

        def vector_of(style: Style) -> Array:
            vector = style.vector if own is None else own
            assert vector is not None
            return vector

        found = stages(pieces, parts.graphs.opened, vector_of, begun)
        frame = Frame(manifest.border, manifest.image.multiple_of)
        return cls(
            found, pieces, frame, parts.graphs.precision, _most_whole(pieces, parts.graphs.precision), LAYERS, SIDE
        )

    @property
    def most_pixels(self) -> int:
        """The most pixels of a picture, its frame included."""
        return largest(self.pieces, self.layers // item_bytes(self.precision))

    def example(self, stage: str) -> Row:
        """A placeholder: pieces aren't prepared."""
        return Row(Ask(np.zeros((1, 1, 1), np.float32), 0.0, 0, 1, stage=stage), Style(), Seat())

    def needed(self, height: int, width: int) -> bool:
        """Whether a picture of this size is painted in tiles."""
        return height * width > self.whole

    def nbytes(self, height: int, width: int) -> int:
        """The bytes of the layers of a picture of this size; 0 if it is painted whole."""
        if not self.needed(height, width):
            return 0
        plan = self._plan(*self.frame.size(height, width))
        return plan.numbers * item_bytes(self.precision)

    def paint(self, canvas: Pixels, styles: Sequence[Style]) -> Generator[Ask, Array, tuple[Pixels, ...]]:
        """Paint RGB [H, W, 3] in each of the styles, one lane after another, in the same size."""
        picture = self.frame.around(canvas)
        plan = self._plan(*picture.shape[:2])
        found = []
        for lane in range(len(styles)):
            out = np.empty_like(picture)
            steps, done = len(styles) * plan.steps, lane * plan.steps
            yield from Painting(self.pieces, plan, steps, self.precision, lane, self.side, done).paint(picture, out)
            found.append(np.ascontiguousarray(self.frame.within(out, canvas)))
        return tuple(found)

    def _plan(self, height: int, width: int) -> Plan:
        """The plan with the least work that fits into memory; the caller has checked `most_pixels`."""
        most = self.layers // item_bytes(self.precision)
        every = list(plans(self.pieces, height, width, self.side))
        return next((plan for plan in every if plan.numbers <= most), every[-1])


def _most_whole(pieces: Pieces, precision: Precision) -> int:
    """The most pixels of a picture that a pass has memory for."""
    large = [plane for plane in planes(pieces, 1024, 1024) if min(plane.height, plane.width) >= 1024]
    pixel_bytes = max(plane.channels for plane in large) * PASS_BYTES[precision]
    return min(WHOLE, max(PASS, free_memory() // PASS_SHARE) // pixel_bytes)

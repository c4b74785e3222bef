"""Pictures that are too large to be painted whole."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from impasto_server.backbone import Backbone, Row
from impasto_server.families.family import Parts
from impasto_server.families.feedforward.manifest import FeedforwardManifest
from impasto_server.families.feedforward.styles import Style
from impasto_server.steps import Ask

Pixels = NDArray[np.uint8]


class Tiles:
    """Of a bundle whose net can be run in pieces."""

    backbones: Mapping[str, Backbone]

    @classmethod
    def of(cls, parts: Parts, manifest: FeedforwardManifest) -> Tiles | None:
        return None

    def example(self, stage: str) -> Row:
        raise NotImplementedError

    def paint(
        self, canvas: Pixels, styles: Sequence[Style]
    ) -> Generator[Ask, NDArray[np.float32], tuple[NDArray[np.generic], ...]]:
        raise NotImplementedError

"""Embeds: the outputs of the text encoders for a text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Embeds:
    """An encoded text: `hidden` [T, D] for its tokens, and `pooled` [P] where the encoder has that output."""

    hidden: Array
    pooled: Array | None = None

    @property
    def nbytes(self) -> int:
        return self.hidden.nbytes + (0 if self.pooled is None else self.pooled.nbytes)

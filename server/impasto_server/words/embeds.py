"""What text encoders make of a text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Embeds:
    """A text, encoded: `hidden` [T, D] for every token, and what is `pooled` of them [P] where the encoder says so."""

    hidden: Array
    pooled: Array | None = None

    @property
    def nbytes(self) -> int:
        return self.hidden.nbytes + (0 if self.pooled is None else self.pooled.nbytes)

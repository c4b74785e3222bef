"""For tests of fits: pictures to fit to, and who watches."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from impasto_fit.pictures import Picture
from impasto_fit.progress import Report, Wish


class Killed(Exception):
    """As if the process were gone."""


@dataclass
class Watcher:
    """Keeps the state at step `keep` of a part, and is killed after `die`; both count steps of all parts."""

    keep: int = -1
    die: int = -1
    state: bytes | None = None
    wish: Wish = Wish.GO_ON
    losses: list[float] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)

    def kept(self) -> bytes | None:
        return self.state

    def __call__(self, report: Report) -> Wish:
        self.losses.append(report.loss)
        self.parts.append(report.part)
        if len(self.losses) == self.keep:
            self.state = report.state()
        if len(self.losses) == self.die:
            raise Killed
        return self.wish


def striped(seed: int = 0, height: int = 48, width: int = 64) -> Picture:
    """Diagonal stripes of two colours, a little noisy."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    one, other = rng.integers(0, 256, (2, 3))
    stripes = np.where((((x + y) // 5) % 2)[..., None], one, other) + rng.normal(0, 8, (height, width, 3))
    picture: Picture = stripes.clip(0, 255).astype(np.uint8)
    return picture

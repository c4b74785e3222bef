"""Who watches a fit: it is told of every step, may look at a preview, keep the state, and stop the fit."""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from impasto_fit.pictures import Picture


class Wish(enum.Enum):
    """What the watcher wants next. FINISH gives the adapter as it is now, CANCEL raises Cancelled."""

    GO_ON = enum.auto()
    FINISH = enum.auto()
    CANCEL = enum.auto()


@dataclass(frozen=True)
class Report:
    """A step was taken. `step` counts from 1 within `part`, of which a recipe may have several, one after the other.

    `preview` paints what the fit is like now, which takes as long as a few steps. `state` is all that resuming needs,
    as bytes. Neither changes what comes of the fit; call them now or never.
    """

    part: str
    step: int
    steps: int
    loss: float
    preview: Callable[[], Picture]
    state: Callable[[], bytes]


class Progress(Protocol):
    """Whoever starts a fit."""

    def kept(self) -> bytes | None:
        """The last state that an earlier run of this very fit gave; None begins anew."""
        ...

    def __call__(self, report: Report) -> Wish: ...


@dataclass(frozen=True)
class Silent:
    """Nobody watches."""

    def kept(self) -> bytes | None:
        return None

    def __call__(self, report: Report) -> Wish:
        return Wish.GO_ON


@dataclass
class Kept:
    """Keeps the state in a file, every `seconds`; tells `told` of each step."""

    path: Path
    seconds: float = 30.0
    told: Callable[[Report], Wish] = Silent()
    _due: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._due = time.monotonic() + self.seconds

    def kept(self) -> bytes | None:
        return self.path.read_bytes() if self.path.is_file() else None

    def __call__(self, report: Report) -> Wish:
        if time.monotonic() >= self._due:
            write(self.path, report.state())
            self._due = time.monotonic() + self.seconds
        return self.told(report)


def write(path: Path, data: bytes) -> None:
    """Whole or not at all, also where the machine stops in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.fresh")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)

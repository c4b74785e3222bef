"""A request on its way, who waits for it, and what they hear."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.residency import Loading, Named
from impasto_server.closing import Closing
from impasto_server.errors import Cancelled, DeadlineExceeded, ImpastoError
from impasto_server.families.family import Conditions
from impasto_server.request import Request
from impasto_server.room import Place
from impasto_server.worn import Worn

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """Encoded pictures, the seed of each, and what was done to make them (JSON-ready).

    With `scores`, the clip score of each, the best is first; otherwise they are in the order of their seeds.
    """

    images: tuple[bytes, ...]
    seeds: tuple[int, ...]
    meta: dict[str, object]
    scores: tuple[float, ...] | None = None

    @property
    def image(self) -> bytes:
        return self.images[0]

    @property
    def seed(self) -> int:
        return self.seeds[0]


@dataclass(frozen=True)
class Progress:
    """`step` of `steps` are done, the last will be in `eta_s` seconds.

    `previews` are a PNG for each candidate, one pixel for each latent: what the samplers take the clean pictures to be.
    """

    step: int
    steps: int
    eta_s: float
    previews: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Caller:
    """Who waits for a request. `done` is called exactly once, `progress` after steps and before `done`, in order.

    Both are called from threads of the pipeline, never from the step loop. `gone` says whether nobody waits any more;
    it's asked at every stage and before every step, by the step loop itself, so it must answer at once.
    """

    done: Callable[[Result | ImpastoError], None]
    gone: Callable[[], bool] = lambda: False
    progress: Callable[[Progress], None] | None = None


@dataclass(eq=False)
class Job:
    """A request on its way: what was found out about it, and when it passed each stage (seconds on one clock).

    `resume` has a job looked at once more, when something that it waits for has come about. `place` is in memory, for
    its pictures; `seen` is what its family read in them, `reference` the embedding [1, E] of what its candidates are
    compared with. `told` is what META has of its family alone. `pinned`: some of its lanes run on weights that their
    mix is merged into. `steps` are those that are run, 0 until that is known. It's settled once, by whoever comes
    first; `over` from then on.
    """

    request: Request
    caller: Caller
    closing: Closing = field(default_factory=Closing)
    resume: Callable[[Job], None] = lambda job: None
    named: tuple[Named, ...] = ()
    loading: Loading | None = None
    place: Place | None = None
    seen: Any = None
    reference: NDArray[np.float32] | None = None
    worn: Worn | None = None
    conditions: Conditions | None = None
    warnings: tuple[str, ...] = ()
    told: Mapping[str, object] = field(default_factory=dict)
    pinned: bool = False
    steps: int = 0
    steps_done: int = 0
    size: tuple[int, int] = (0, 0)  # of its pictures, width and height, once there is one
    showing: deque[int] = field(default_factory=deque)  # bytes of each sample whose preview is still to be made
    times: dict[str, float] = field(default_factory=lambda: {"submitted": perf_counter()})
    _settling: Lock = field(default_factory=Lock)
    _telling: Lock = field(default_factory=Lock)

    @property
    def over(self) -> bool:
        return self._settling.locked()

    def again(self) -> None:
        """Have it looked at once more.

        A method and no field: a job that held what holds it would outlive its answer, with its pictures.
        """
        self.resume(self)

    def settle(self) -> bool:
        """True for the first who asks: theirs is the outcome."""
        return self._settling.acquire(blocking=False)

    def report(self, progress: Progress) -> None:
        """Tell the caller of it, unless it has its outcome, or is to have it now."""
        with self._telling:
            if self.caller.progress is not None and not self.over:
                self._tell(self.caller.progress, progress)

    def answer(self, outcome: Result | ImpastoError) -> None:
        """Tell the caller what became of it; for the one who settled it, after which no progress is told."""
        with self._telling:
            self._tell(self.caller.done, outcome)

    def _tell(self, hear: Callable[[Any], None], news: object) -> None:
        try:
            hear(news)
        except Exception as error:  # theirs, and no reason to stop serving the others
            log.error("a caller could not take what it was told", exc_info=error)

    def mark(self, stage: str) -> None:
        self.times[stage] = perf_counter()

    @property
    def join_s(self) -> float:
        """From being prepared to the first step."""
        return self.times["joined"] - self.times["prepared"]

    @property
    def queue_s(self) -> float:
        """The time in which nothing was done for it."""
        return self.times["preparing"] - self.times["submitted"] + self.join_s

    def time_left_s(self) -> float | None:
        if self.request.answer.timeout_s is None:
            return None
        return self.times["submitted"] + self.request.answer.timeout_s - perf_counter()

    def check(self) -> None:
        """Raises Cancelled when nobody waits for the answer, DeadlineExceeded when it would come too late.

        And Unavailable, when the server's own time is over.
        """
        if self.over:
            raise Cancelled("the request has its answer")
        self.closing.check()
        if self.caller.gone():
            raise Cancelled("the caller cancelled the request, or is gone")
        left = self.time_left_s()
        if left is not None and left <= 0:
            done = f"{self.steps_done} of {self.steps or self.request.sampling.steps} steps were done"
            said = f"no image within {self.request.answer.timeout_s:g} s ({done}); allow more time, or ask for less"
            raise DeadlineExceeded(said)

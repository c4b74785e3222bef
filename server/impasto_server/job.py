"""A job: a request under way, its caller, and what the caller is told."""

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
    """Encoded pictures, the seed of each, and how they were made (JSON-ready).

    With `scores` (the clip score of each) the best is first; otherwise they are in the order of their seeds.
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
    """`step` of `steps` are done; the last will be done in `eta_s` seconds.

    `previews` holds a PNG for each candidate, one pixel for each latent, of the sampler's predicted final sample.
    """

    step: int
    steps: int
    eta_s: float
    previews: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Caller:
    """Who waits for a request. `done` is called exactly once; `progress` after steps, in order, and before `done`.

    Both are called from the pipeline's threads, never from the step loop. `gone` says whether nobody waits any more.
    The step loop itself asks it before every step, so it must answer at once.
    """

    done: Callable[[Result | ImpastoError], None]
    gone: Callable[[], bool] = lambda: False
    progress: Callable[[Progress], None] | None = None


@dataclass(eq=False)
class Job:
    """A request under way: what is known about it, and when it passed each stage (`times`, seconds on one clock).

    `resume` takes a job up again when something that it waited for has happened. `place` is its pictures' room in
    memory, `seen` what its family read from them, `reference` the embedding [1, E] that its candidates are compared
    with. `told` is the family's part of META. `pinned`: some of its lanes run on weights that their mix is merged into.
    `steps` is how many are run, 0 until that is known. `stages` is when each stage of steps ended, on the clock of
    `times`. A job is settled once, by whoever comes first; it is `over` from then on.
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
    size: tuple[int, int] = (0, 0)  # its pictures' width and height, once one is decoded
    showing: deque[int] = field(default_factory=deque)  # bytes of each sample that waits for its preview
    times: dict[str, float] = field(default_factory=lambda: {"submitted": perf_counter()})
    stages: dict[str, float] = field(default_factory=dict)
    _settling: Lock = field(default_factory=Lock)
    _telling: Lock = field(default_factory=Lock)

    @property
    def over(self) -> bool:
        return self._settling.locked()

    def again(self) -> None:
        """Take the job up again.

        A method, not a field: a job that held a callback to itself would outlive its answer, and so would its pictures.
        """
        self.resume(self)

    def settle(self) -> bool:
        """True for the first who calls: their outcome is the job's."""
        return self._settling.acquire(blocking=False)

    def report(self, progress: Progress) -> None:
        """Report progress to the caller, unless the job is over."""
        with self._telling:
            if self.caller.progress is not None and not self.over:
                self._tell(self.caller.progress, progress)

    def answer(self, outcome: Result | ImpastoError) -> None:
        """Give the caller the outcome; only for whoever settled the job. No progress is reported after this."""
        with self._telling:
            self._tell(self.caller.done, outcome)

    def _tell(self, hear: Callable[[Any], None], news: object) -> None:
        try:
            hear(news)
        except Exception as error:  # the caller's fault, and no reason to stop serving the others
            log.error("a caller's callback failed", exc_info=error)

    def mark(self, stage: str) -> None:
        self.times[stage] = perf_counter()

    @property
    def join_s(self) -> float:
        """Seconds from being prepared to the first step."""
        return self.times["joined"] - self.times["prepared"]

    @property
    def queue_s(self) -> float:
        """Seconds in which nothing was done for it."""
        return self.times["preparing"] - self.times["submitted"] + self.join_s

    def since(self, stage: str) -> float:
        """Seconds from its arrival to `stage`."""
        return self.times[stage] - self.times["submitted"]

    def time_left_s(self) -> float | None:
        if self.request.answer.timeout_s is None:
            return None
        return self.times["submitted"] + self.request.answer.timeout_s - perf_counter()

    def check(self) -> None:
        """Raise Cancelled when nobody waits for the answer, DeadlineExceeded when its time has passed, and Unavailable
        when the server is closing.
        """
        if self.over:
            raise Cancelled("the request has its answer already")
        self.closing.check()
        if self.caller.gone():
            raise Cancelled("the caller cancelled the request, or is gone")
        left = self.time_left_s()
        if left is not None and left <= 0:
            done = f"{self.steps_done} of {self.steps or self.request.sampling.steps} steps were done"
            said = f"no image within {self.request.answer.timeout_s:g} s ({done}); allow more time, or ask for less"
            raise DeadlineExceeded(said)

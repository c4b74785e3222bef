"""Wait in tests, up to a limit that only a fault reaches, and hold up other threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Event
from time import monotonic, sleep
from typing import Any, Generic, TypeVar

from impasto_server.errors import ImpastoError

PATIENCE_S = 60.0
T = TypeVar("T")


def eventually(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, "it did not come about"
        sleep(0.02)


@dataclass
class Gate:
    """Holds up callers until `open` is set; `reached` is set when one has come.

    `came` and `passed` list the calls in order, as `note` describes their arguments.
    """

    reached: Event = field(default_factory=Event)
    open: Event = field(default_factory=Event)
    came: list[Any] = field(default_factory=list)
    passed: list[Any] = field(default_factory=list)

    def before(
        self,
        then: Callable[..., Any],
        wanted: Callable[..., bool] = lambda *_: True,
        note: Callable[..., Any] = lambda *_: None,
    ) -> Callable[..., Any]:
        """`then` behind the gate: calls that are `wanted` have to wait."""

        def through(*given: Any) -> Any:
            self.came.append(note(*given))
            if wanted(*given):
                self.reached.set()
                assert self.open.wait(PATIENCE_S)
            self.passed.append(note(*given))
            return then(*given)

        return through


@dataclass
class Asked(Generic[T]):
    """A request, and what its caller hears of it."""

    left: Event = field(default_factory=Event)
    outcomes: list[T | ImpastoError] = field(default_factory=list)
    answer: Future[T | ImpastoError] = field(default_factory=Future)
    late: list[object] = field(default_factory=list)

    def outcome(self) -> T | ImpastoError:
        return self.answer.result(PATIENCE_S)

    def hear(self, outcome: T | ImpastoError) -> None:
        self.outcomes.append(outcome)
        if not self.answer.done():
            self.answer.set_result(outcome)

    def progress(self, progress: object) -> None:
        if self.outcomes:
            self.late.append(progress)

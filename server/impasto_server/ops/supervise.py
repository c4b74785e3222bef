"""The supervisor: it restarts a server that died, on the same ports, until it dies too often."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic, sleep
from types import TracebackType

from impasto_server.errors import SetupError
from impasto_server.ops.serve import Log, Plan, ServerDied
from impasto_server.stats import Reason

WINDOW_S = 600.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


class GaveUp(Exception):
    """A server died too often."""


@dataclass
class Restarts:
    """How often a server may die within `window_s` seconds, and how long to wait before the next is started."""

    limit: int
    window_s: float = WINDOW_S
    deaths: deque[float] = field(default_factory=deque)

    def died(self, now: float) -> float:
        """Seconds until the restart: 0 after the first death, then ever longer. Raises GaveUp after too many."""
        self.deaths.append(now)
        while self.deaths[0] <= now - self.window_s:
            self.deaths.popleft()
        if not self.limit:
            raise GaveUp("restarting is turned off")
        if len(self.deaths) > self.limit:
            raise GaveUp(f"it died {len(self.deaths)} times within {self.window_s / 60:g} minutes; it isn't restarted")
        again = len(self.deaths) - 1
        return min(FIRST_PAUSE_S * 2 ** (again - 1), LONGEST_PAUSE_S) if again else 0.0

    def __str__(self) -> str:
        return f"death {len(self.deaths)} of {self.limit} allowed within {self.window_s / 60:g} minutes"


class Supervisor:
    """Keeps a server of `plan` running while it is open. `say` gets a line when a server died, and when one is back.

    Raises SetupError when the first server can't start. `rest` waits for so many seconds.
    """

    def __init__(
        self,
        plan: Plan,
        restarts: Restarts,
        on_log: Log,
        say: Callable[[str], None],
        clock: Callable[[], float] = monotonic,
        rest: Callable[[float], None] = sleep,
    ) -> None:
        self._plan = plan
        self._restarts = restarts
        self._on_log = on_log
        self._say = say
        self._clock = clock
        self._rest = rest
        self._reasons: Counter[Reason] = Counter()
        self.stopped_in_order = True

    def __enter__(self) -> Supervisor:
        self.server = self._plan.start(self._on_log)
        try:
            self.server.wait_ready()
        except BaseException:
            self.server.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, GaveUp):
            return  # it is ended already
        if self.server.was_ready:
            self.stopped_in_order = self.server.stop(self._plan.grace_s)
        else:
            self.server.end()

    def look(self) -> None:
        """Check that the server lives; if not, start another and return when it is ready. Raises GaveUp."""
        try:
            self.server.check()
        except ServerDied as death:
            self._revive(death)

    def _revive(self, death: ServerDied | SetupError | OSError) -> None:
        while True:
            self._end(death)
            died = self._clock()
            try:
                pause_s = self._restarts.died(died)
            except GaveUp as error:
                raise GaveUp(f"{death}\n{error}") from None
            self._say(f"{death}\nit is restarted in {pause_s:g} s ({self._restarts})")
            self._rest(pause_s)
            self._reasons[reason_of(death)] += 1
            try:
                self.server = self._plan.start(self._on_log, self._reasons)
                self.server.wait_ready()
            except (SetupError, OSError) as error:  # OSError: a full disk, for example
                death = error
                continue
            self._say(f"ready again after {self._clock() - died:.1f} s")
            return

    def _end(self, death: Exception) -> None:
        """End what is left: in order only what still works, since whoever waits for the rest would wait in vain."""
        if reason_of(death) == "told_to_stop":
            self.server.stop(self._plan.grace_s)
        else:
            self.server.end()


def reason_of(death: Exception) -> Reason:
    """As the metric has it."""
    return death.reason if isinstance(death, ServerDied) else "failed_start"

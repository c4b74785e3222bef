"""The supervisor: it restarts a server that died, on the same ports, until it dies too often."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic, sleep
from types import TracebackType

from impasto_server.errors import SetupError
from impasto_server.ops.serve import Log, Plan, ServerDied

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

    Raises SetupError when the first server can't start.
    """

    def __init__(self, plan: Plan, restarts: Restarts, on_log: Log, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._restarts = restarts
        self._on_log = on_log
        self._say = say
        self.stopped_in_order = True

    def __enter__(self) -> Supervisor:
        self.server = self._plan.start(self._on_log)
        try:
            self.server.wait_ready()
        except BaseException:
            self.server.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, GaveUp):  # then it is stopped already
            self.stopped_in_order = self.server.stop(self._plan.grace_s if self.server.stubs else 0)

    def look(self) -> None:
        """Check that the server lives; if not, start another and return when it is ready. Raises GaveUp."""
        try:
            self.server.check()
        except ServerDied as death:
            self._revive(death)

    def _revive(self, death: ServerDied | SetupError | OSError) -> None:
        while True:
            self.server.stop()
            died = monotonic()
            try:
                pause_s = self._restarts.died(died)
            except GaveUp as error:
                raise GaveUp(f"{death}\n{error}") from None
            self._say(f"{death}\nit is restarted in {pause_s:g} s ({self._restarts})")
            sleep(pause_s)
            try:
                self.server = self._plan.start(self._on_log)
                self.server.wait_ready()
            except (SetupError, OSError) as error:  # OSError: a full disk, for example
                death = error
                continue
            self._say(f"ready again after {monotonic() - died:.1f} s")
            return

"""How many requests are under way, and how soon there may be room for another."""

from __future__ import annotations

from threading import Condition
from time import perf_counter

from impasto_server.errors import Exhausted, Unavailable
from impasto_server.stats import Stats

SMOOTHING = 0.8
SOONEST_S = 0.1


class Admission:
    """Lets at most `limit` requests in; who is turned away is told the usual time between two departures."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._interval_s = 1.0
        self._last_departure = perf_counter()
        self._open = True
        self._changed = Condition()

    def enter(self, stats: Stats) -> None:
        """Counted in `stats`, as is who leaves. Raises Exhausted when `limit` requests are under way, and Unavailable
        when closed.
        """
        with self._changed:
            if not self._open:
                raise Unavailable("the server is stopping; send the request to another one, or later")
            if self._inside == self._limit:
                stats.add("rejected")
                raise Exhausted(self._limit, max(SOONEST_S, self._interval_s))
            if self._inside == 0:
                self._last_departure = perf_counter()  # idle time says nothing about how long a request takes
            self._inside += 1
            stats.add("requests")

    def leave(self, stats: Stats) -> None:
        with self._changed:
            self._inside -= 1
            stats.add("requests", -1)
            now = perf_counter()
            self._interval_s = SMOOTHING * self._interval_s + (1 - SMOOTHING) * (now - self._last_departure)
            self._last_departure = now
            self._changed.notify_all()

    def drain(self, grace_s: float) -> int:
        """Let no one in any more, and return when the last one has left, or after `grace_s`; how many are inside."""
        with self._changed:
            self._open = False
            self._changed.wait_for(lambda: self._inside == 0, grace_s)
            return self._inside

    def close(self) -> None:
        """Let no one in any more, and return when the last one has left."""
        with self._changed:
            self._open = False
            self._changed.wait_for(lambda: self._inside == 0)

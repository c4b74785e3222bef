"""Admission: it bounds how many requests are under way and says when to try again.

With several bundles, half of the places are reserved, an equal share for each bundle; the other half is for anyone. So
slow requests of one bundle never shut out another.
"""

from __future__ import annotations

from collections import Counter
from threading import Condition
from time import perf_counter

from impasto_server.errors import Exhausted, Unavailable
from impasto_server.stats import Stats

SMOOTHING = 0.8
SOONEST_S = 0.1


class Admission:
    """Lets at most `limit` requests in. One that is turned away is told the mean time between two departures."""

    def __init__(self, limit: int, bundles: int = 1) -> None:
        self._limit = limit
        self._kept = limit // (2 * bundles) if bundles > 1 else 0  # reserved for each bundle
        self._common = limit - bundles * self._kept
        self._inside: Counter[Stats] = Counter()  # a bundle is identified by its stats
        self._interval_s = 1.0
        self._last_departure = perf_counter()
        self._open = True
        self._changed = Condition()

    def enter(self, stats: Stats) -> None:
        """Let a request in, counted in its bundle's `stats`.

        Raises Exhausted when there is no place for another request of the bundle, and Unavailable when closed.
        """
        with self._changed:
            if not self._open:
                raise Unavailable("the server is stopping; send the request to another one, or later")
            if self._full_for(stats):
                stats.add("rejected")
                raise Exhausted(self._inside.total(), max(SOONEST_S, self._interval_s))
            if not self._inside.total():
                self._last_departure = perf_counter()  # idle time says nothing about how long a request takes
            self._inside[stats] += 1
            stats.add("requests")

    def leave(self, stats: Stats) -> None:
        with self._changed:
            self._inside[stats] -= 1
            stats.add("requests", -1)
            now = perf_counter()
            self._interval_s = SMOOTHING * self._interval_s + (1 - SMOOTHING) * (now - self._last_departure)
            self._last_departure = now
            self._changed.notify_all()

    def drain(self, grace_s: float) -> int:
        """Let no one in any more; wait until all have left, `grace_s` at most. Returns how many are still inside."""
        with self._changed:
            self._open = False
            self._changed.wait_for(lambda: not self._inside.total(), grace_s)
            return self._inside.total()

    def close(self) -> None:
        """Let no one in any more; wait until all have left."""
        with self._changed:
            self._open = False
            self._changed.wait_for(lambda: not self._inside.total())

    def _full_for(self, stats: Stats) -> bool:
        """Whether the bundle's reserved places and the common ones are all taken."""
        common = sum(max(0, inside - self._kept) for inside in self._inside.values())
        return self._inside[stats] >= self._kept and common >= self._common

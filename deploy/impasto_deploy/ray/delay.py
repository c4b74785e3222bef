"""How much requests were delayed lately by others at the same server.

A server begins with a request at once, as long as it has room, and lets it share its passes with the others. So what
grows with the load is not a queue but how long each takes: with k requests under way, it takes k times as long.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WINDOW_S = 15.0


class Delay:
    """The delays of requests that ended in the last `window_s` seconds."""

    def __init__(self, window_s: float = WINDOW_S, now: Callable[[], float] = time.monotonic) -> None:
        self._window_s = window_s
        self._now = now
        self._under_way = 0
        self._looked_at_s = 0.0
        self._share_s = 0.0  # what a request that never ends would have had of the server alone
        self._seen: deque[tuple[float, float]] = deque()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """A request's stay at the server."""
        began_s, share_s = self._look()
        self._under_way += 1
        try:
            yield
        finally:
            ended_s, shared_s = self._look()
            self._under_way -= 1
            self._seen.append((ended_s, (ended_s - began_s) - (shared_s - share_s)))

    def _look(self) -> tuple[float, float]:
        """The time, and the share until now."""
        now_s = self._now()
        if self._under_way:
            self._share_s += (now_s - self._looked_at_s) / self._under_way
        self._looked_at_s = now_s
        return now_s, self._share_s

    def mean_s(self) -> float:
        """Their mean in seconds; 0 without requests."""
        while self._seen and self._seen[0][0] <= self._now() - self._window_s:
            self._seen.popleft()
        return sum(delay_s for _, delay_s in self._seen) / len(self._seen) if self._seen else 0.0

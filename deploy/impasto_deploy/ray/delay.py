"""How long requests waited lately at one server, before it began with them: its answers say it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from impasto_client.errors import ProtocolError
from impasto_client.wire import Tensors, account

WINDOW_S = 15.0


class Delay:
    """The queueing times of the last `window_s` seconds."""

    def __init__(self, window_s: float = WINDOW_S, now: Callable[[], float] = time.monotonic) -> None:
        self._window_s = window_s
        self._now = now
        self._seen: deque[tuple[float, float]] = deque()

    def answered(self, tensors: Tensors) -> None:
        """Count an answer; progress, and an answer that this version doesn't understand, says nothing of it."""
        if "META" not in tensors:
            return
        try:
            _, timings, _ = account(tensors)
        except ProtocolError:  # the gateway will say so
            return
        self._seen.append((self._now(), timings.queue_ms / 1000))

    def mean_s(self) -> float:
        """Their mean in seconds; 0 without requests."""
        while self._seen and self._seen[0][0] <= self._now() - self._window_s:
            self._seen.popleft()
        return sum(waited for _, waited in self._seen) / len(self._seen) if self._seen else 0.0

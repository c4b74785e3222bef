"""The keeper of a replica's server: starts it, and starts another when it has ended, ever later, until it gives up.

Triton and the models' processes are restarted by `impasto serve` itself; this is for when that one is gone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from threading import Event, Thread
from typing import Protocol

from impasto_deploy.ray.server import DidNotStart

DEATHS, WINDOW_S = 3, 600.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


class Running(Protocol):
    """What is used of a Server."""

    def ready(self) -> str: ...

    def ended(self) -> str: ...

    def stop(self, limit_s: float) -> None: ...


class GaveUp(Exception):
    """The server can't start, or has ended too often; str() says why."""


class Keeper:
    """Keeps a server running until it is closed. `say` gets a line when one has ended."""

    def __init__(
        self, start: Callable[[], Running], say: Callable[[str], None], first_s: float = FIRST_PAUSE_S
    ) -> None:
        self._start = start
        self._say = say
        self._first_s = first_s
        self._deaths: deque[float] = deque()
        self._running: Running | None = None
        self._url: str | None = None
        self._problem = ""
        self._closing, self._settled = Event(), Event()
        self._thread = Thread(target=self._keep, name="keeper", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str | None:
        """host:port of the server's gRPC; None while there is none. Raises GaveUp."""
        if self._problem:
            raise GaveUp(self._problem)
        return self._url

    def wait(self, timeout_s: float) -> str:
        """The url of the first server. Raises GaveUp, also after `timeout_s` seconds."""
        self._settled.wait(timeout_s)
        url = self.url
        if url is None:
            raise GaveUp(f"the server was not ready after {timeout_s:g} s; see its log, or raise start_s")
        return url

    def close(self, limit_s: float) -> None:
        """End the server, within `limit_s` seconds, and start no other. May be called twice."""
        self._closing.set()
        running = self._running
        if running is not None:
            running.stop(limit_s)
        self._thread.join(limit_s)

    def _keep(self) -> None:
        while not self._closing.is_set():
            try:
                running = self._running = self._start()
                if self._closing.is_set():  # close() may have missed it
                    running.stop(0)
                self._url = running.ready()
                self._settled.set()
                death = running.ended()
            except (DidNotStart, OSError) as error:
                death = f"the server can't start:\n{error}"
            never, self._url = not self._settled.is_set(), None
            if self._closing.is_set() or self._gives_up(death, never):
                break
            self._closing.wait(self._pause_s(death))
        self._settled.set()

    def _gives_up(self, death: str, never: bool) -> bool:
        """Whether there is no point in another start: the first one failed, or it ended too often."""
        now = time.monotonic()
        self._deaths.append(now)
        while self._deaths[0] <= now - WINDOW_S:
            self._deaths.popleft()
        if never or len(self._deaths) > DEATHS:
            self._problem = death
        return bool(self._problem)

    def _pause_s(self, death: str) -> float:
        pause_s = min(self._first_s * 2.0 ** (len(self._deaths) - 1), LONGEST_PAUSE_S)
        self._say(f"{death}\nanother is started in {pause_s:g} s")
        return pause_s

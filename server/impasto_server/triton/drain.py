"""A model's side of draining: it is told that its server stops, and reports when all its requests are finished."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Condition

from impasto_server.ops.guardian import SERVER, drain_address
from impasto_server.triton.listener import Listener

log = logging.getLogger(__name__)


class Drains:
    """Listens for a grace in seconds and calls `drain` with it, which returns how many requests were cut off.

    It passes that number on once every request that was `taken` has been answered (`told`).
    """

    def __init__(self, drain: Callable[[float], int], model: str) -> None:
        self._drain = drain
        self._untold = 0
        self._changed = Condition()
        self._listener = Listener(drain_address(os.environ[SERVER], model), self._attend, "drain")

    def taken(self) -> None:
        """Count a request that waits for an answer of this process."""
        with self._changed:
            self._untold += 1

    def told(self) -> None:
        """Count an answer that Triton has received."""
        with self._changed:
            self._untold -= 1
            self._changed.notify_all()

    def close(self) -> None:
        self._listener.close()

    def _attend(self, line: socket.socket) -> None:
        with line, suppress(OSError, ValueError):  # the other end is gone, or sends something else
            line.sendall(b"%d\n" % self._stop(float(line.recv(64))))

    def _stop(self, grace_s: float) -> int:
        log.info("stopping: new requests are refused, those under way have %g s", grace_s)
        left = self._drain(grace_s)
        with self._changed:
            self._changed.wait_for(lambda: self._untold == 0)
        log.info("stopping: %d requests were cut off", left)
        return left

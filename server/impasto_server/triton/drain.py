"""A model's side of leaving: it hears that its server is to stop, and says when nothing is left in it."""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from threading import Condition, Thread

from impasto_server.errors import Unavailable
from impasto_server.ops.guardian import SERVER, drain_address

log = logging.getLogger(__name__)

CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class Closing:
    """Whether the time is over that a server has for what it took."""

    def __init__(self) -> None:
        self._over = False

    def now(self) -> None:
        self._over = True

    def check(self) -> None:
        """Raises Unavailable once it is."""
        if self._over:
            raise Unavailable("the server stopped before this was done; send the request to another one, or later")


class Drains:
    """Listens for a grace in seconds, and calls `drain` with it, which returns how many requests were cut off.

    That is answered once everybody who was `taken` has been told. The socket is abstract (no file to leave behind) and
    takes connections of the same user only.
    """

    def __init__(self, drain: Callable[[float], int], model: str) -> None:
        self._drain = drain
        self._untold = 0
        self._changed = Condition()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(drain_address(os.environ[SERVER], model))
        self._listener.listen()
        self._thread = Thread(target=self._accept, name="drain", daemon=True)
        self._thread.start()

    def taken(self) -> None:
        """There is somebody who waits for an answer of this process."""
        with self._changed:
            self._untold += 1

    def told(self) -> None:
        """Triton has it."""
        with self._changed:
            self._untold -= 1
            self._changed.notify_all()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                line, _ = self._listener.accept()
                Thread(target=self._attend, args=[line], name="drain-peer", daemon=True).start()

    def _attend(self, line: socket.socket) -> None:
        with line, suppress(OSError, ValueError):  # the other end is gone, or speaks something else
            peer = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
            if CREDENTIALS.unpack(peer)[1] == os.getuid():
                line.sendall(b"%d\n" % self._stop(float(line.recv(64))))

    def _stop(self, grace_s: float) -> int:
        log.info("stopping: nothing new is taken, and what is under way has %g s", grace_s)
        left = self._drain(grace_s)
        with self._changed:
            self._changed.wait_for(lambda: self._untold == 0)
        log.info("stopping: %d requests were cut off", left)
        return left

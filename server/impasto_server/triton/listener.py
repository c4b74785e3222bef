"""A listener: it takes connections from this server's other processes on an abstract socket, which leaves no file."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class Listener:
    """Calls `attend` with each connection of the same user, in a thread of its own; it closes other users' connections.

    `attend` must close its connection. Raises OSError when another process listens at `address` already.
    """

    def __init__(self, address: str, attend: Callable[[socket.socket], None], name: str) -> None:
        self._attend = attend
        self._name = name
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(address)
        self._socket.listen()
        self._thread = Thread(target=self._accept, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more connections; open ones stay."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()  # a running thread would keep the address in use
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._socket.accept()
                if _user_of(connection) == os.getuid():
                    Thread(target=self._attend, args=[connection], name=f"{self._name}-peer", daemon=True).start()
                else:
                    connection.close()


def _user_of(connection: socket.socket) -> int:
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return int(CREDENTIALS.unpack(peer)[1])

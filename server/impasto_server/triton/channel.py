"""A channel: messages between two processes over a socket. Sending never blocks.

A message is two lengths (header, payload), a JSON header and raw bytes. Each end queues its messages, and a thread of
its own writes them out. So a reader never waits for a writer, and two ends that both send much can't deadlock. The
sender says how many bytes may wait before its message, and decides what to do if more do.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from threading import Condition, Thread
from typing import Any

LENGTHS = struct.Struct("<II")


class Channel:
    """One end of a connection: `offer` and `end` from any thread, `receive` and `close` from the reading thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._incoming = connection.makefile("rb")
        self._waiting: deque[tuple[bytes, ...]] = deque()
        self._waiting_bytes = 0
        self._open = True
        self._changed = Condition()
        self._writer = Thread(target=self._write, name="channel", daemon=True)
        self._writer.start()

    def offer(self, header: Mapping[str, object], *files: bytes, room: int = sys.maxsize) -> bool:
        """Queue a message and return at once.

        False when the channel has ended or more than `room` bytes wait already; then it isn't sent. The message itself
        may have any size.
        """
        text = json.dumps(header).encode()
        message = LENGTHS.pack(len(text), sum(map(len, files))) + text, *files
        with self._changed:
            if not self._open or self._waiting_bytes > room:
                return False
            self._waiting.append(message)
            self._waiting_bytes += _size(message)
            self._changed.notify_all()
        return True

    def receive(self) -> tuple[dict[str, Any], bytes] | None:
        """The next message; None when the channel has ended, the other end is gone, or it sends something else."""
        try:
            header, payload = (self._exactly(length) for length in LENGTHS.unpack(self._exactly(LENGTHS.size)))
            return json.loads(header), payload
        except (EOFError, OSError, ValueError):
            return None

    def flush(self, timeout_s: float) -> None:
        """Wait until all queued messages are written, the channel has ended, or the time has passed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open or self._waiting_bytes == 0, timeout_s)

    def end(self) -> None:
        """Drop queued messages and read nothing more; the other end finds the connection closed."""
        with self._changed:
            self._open = False
            self._waiting.clear()
            self._changed.notify_all()
        with suppress(OSError):  # never connected, or gone already
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the channel, close the socket and end the thread."""
        self.end()
        self._writer.join()
        self._incoming.close()
        self._connection.close()

    def _write(self) -> None:
        try:
            while (message := self._next()) is not None:
                for part in message:
                    self._connection.sendall(part)
                with self._changed:
                    self._waiting_bytes -= _size(message)
                    self._changed.notify_all()
        except OSError:
            self.end()

    def _next(self) -> tuple[bytes, ...] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._open)
            return self._waiting.popleft() if self._open else None

    def _exactly(self, length: int) -> bytes:
        data = self._incoming.read(length)
        if len(data) < length:
            raise EOFError
        return data


def _size(message: tuple[bytes, ...]) -> int:
    return sum(map(len, message))

"""A printer for threads that must not wait for the reader of their lines."""

from __future__ import annotations

from collections.abc import Callable
from queue import Full, Queue
from threading import Thread

WAITING = 1000  # lines
LAST_S = 1.0  # for the lines left at the end


class Printer:
    """Passes lines to `write` in a thread of its own. If that is too slow, it drops lines and says how many."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._lines: Queue[str | None] = Queue(WAITING)
        self._left_out = 0
        self._thread = Thread(target=self._run, name="printer", daemon=True)
        self._thread.start()

    def say(self, line: str) -> None:
        """Queue a line; returns at once."""
        try:
            if self._left_out:
                self._lines.put_nowait(f"({self._left_out} lines were dropped, since nobody read them)")
                self._left_out = 0
            self._lines.put_nowait(line)
        except Full:
            self._left_out += 1

    def close(self) -> None:
        """Print the lines that wait, if that doesn't take long."""
        try:
            self._lines.put(None, timeout=LAST_S)
        except Full:
            return
        self._thread.join(LAST_S)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(line)

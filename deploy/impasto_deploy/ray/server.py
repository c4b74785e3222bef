"""A server of a replica's own: `impasto serve` as a process that ends when the replica does, however that happens."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread

TAIL_LINES = 30
# `impasto serve -- COMMAND` stops when the command ends. This one says where the server is, and ends when its input is
# closed: by the replica, or by the kernel when the replica is gone.
LEASH = ("sh", "-c", 'echo "$IMPASTO_URL" && exec cat')

Log = Callable[[str], None]


class DidNotStart(Exception):
    """The server ended before it was ready; str() is the end of its log."""


class Server:
    """One run of `impasto serve` with these `options`, on a free port; on these `cores` if any are given.

    `log` gets every line that it prints, from another thread. Raises OSError where there is no `impasto`.
    """

    def __init__(self, options: Sequence[str], cores: Collection[int], log: Log) -> None:
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._log = log
        self.process = subprocess.Popen(
            [_impasto(), "serve", *options, "--port", "0", "--", *LEASH],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for the replica, which lets this one finish
        )
        if cores:
            with suppress(ProcessLookupError):
                os.sched_setaffinity(self.process.pid, cores)
        self._reader = Thread(target=self._read, name="impasto-serve", daemon=True)
        self._reader.start()

    def ready(self) -> str:
        """host:port of its gRPC, once it is ready. Raises DidNotStart."""
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            url = lines.readline().strip()
        if url:
            return url
        self.process.wait()
        self._release()
        raise DidNotStart(self.tail())

    def ended(self) -> str:
        """Wait until it has ended, and say how."""
        status = self.process.wait()
        self._release()
        return f"impasto serve ended with status {status}:\n{self.tail()}"

    def stop(self, limit_s: float) -> None:
        """Let it finish its requests, as its --grace allows, and end it; killed after `limit_s` seconds."""
        self.process.terminate()
        self._release()
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()  # its guardian cleans up
            self.process.wait()
        self._reader.join(5)

    def tail(self) -> str:
        """The last lines that it printed; all there are if it has ended."""
        if self.process.poll() is not None:
            self._reader.join(5)
        return "\n".join(self._tail)

    def _release(self) -> None:
        """End the command at the leash, which outlives a server that was killed."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self._tail.append(line.rstrip())
                self._log(line.rstrip())


def _impasto() -> str:
    """The command, beside this interpreter; workers of a cluster needn't have it on PATH."""
    return str(Path(sys.executable).with_name("impasto"))

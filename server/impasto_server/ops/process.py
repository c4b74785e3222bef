"""The handle of a guarded server, and its child processes by /proc."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from impasto_server.ops import guardian
from impasto_server.ops.guardian import Charge

END_S = 5.0  # for a guardian to kill a server and reap its processes


class Guarded:
    """A server's guardian, as seen by the process that started it; the output of both comes in one pipe."""

    def __init__(self, charge: Charge, environment: Mapping[str, str]) -> None:
        self._charge = charge
        # Only this process has the other end, so it closes with this process at the latest.
        end, leash = os.pipe()
        self._leash: int | None = leash
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", guardian.__file__],
                env=dict(environment),
                stdin=end,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except BaseException:
            os.close(leash)
            raise
        finally:
            os.close(end)
        self._say(f"{json.dumps(asdict(charge))}\n")

    def let_go(self, grace_s: float) -> int:
        """Let it end the server within about `grace_s` seconds, clean up and end. Returns its exit status. May be
        repeated.
        """
        return self._leave(f"{grace_s}", grace_s + guardian.SLACK_S + guardian.FLUSH_S + 10)

    def end(self) -> int:
        """Let it kill the server without asking, clean up and end. Returns its exit status. May be repeated."""
        return self._leave(guardian.NOW, END_S)

    def _leave(self, last_words: str, within_s: float) -> int:
        if self._leash is not None:
            self._say(last_words)
            os.close(self._leash)
            self._leash = None
        try:
            status = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()  # the server dies with it
            status = self.process.wait()
        if status < 0:
            guardian.clean(self._charge)
        return status

    def _say(self, words: str) -> None:
        assert self._leash is not None
        with suppress(BrokenPipeError):  # the guardian has ended
            os.write(self._leash, words.encode())


def children(parent: int) -> list[int]:
    """The living direct children of process `parent`, without zombies."""
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if is_child(pid, parent)]


def is_child(pid: int, parent: int) -> bool:
    """Whether `pid` lives and is a child of `parent`."""
    return state(pid, parent) is not None


def state(pid: int, parent: int) -> str | None:
    """The letter that /proc has for the state of `pid`; None unless it lives and is a child of `parent`."""
    try:
        # "pid (name) state ppid ...": the name may hold anything, so read from its closing bracket on.
        letter, ppid = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return letter if letter not in "ZX" and int(ppid) == parent else None

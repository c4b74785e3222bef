"""The guardian: a process between `impasto serve` and its tritonserver. It outlives both and cleans up after them.

    impasto serve ──(leash: a pipe)──► guardian ──► tritonserver ──► a process for each Python model

It starts the server and waits for one of two events. If the server ends, the guardian kills what the server started. If
the leash closes, because `impasto serve` closed it or was killed, the guardian tells the server to stop and asks the
models to finish their requests; when none is left, it kills the server. (Triton's own shutdown would wait half a minute
for requests that were cancelled at a bad moment, and answer NOT_FOUND meanwhile.) A server of which a part is gone or
hangs can't finish anything: the leash says NOW, and it is killed, so that callers hear at once that it is lost.

It runs as a script with the standard library alone, so it starts at once and depends on no environment.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from shutil import rmtree
from threading import Thread
from time import monotonic, sleep

CUT = 3  # the guardian's exit status when the grace ended with requests under way; 0 when there were none
SIGNALLED = 128  # plus the signal's number: its exit status when a signal ended the server
SLACK_S = 5.0  # after the grace, for models to report that they are done
QUIET_S = 0.3  # how long nothing may be on its way to a client before the server is killed
FLUSH_S = 5.0  # the most that a slow client is waited for
PR_SET_CHILD_SUBREAPER = 36
NOW = "now"  # said on the leash instead of a grace: the server is killed without being asked to finish
SERVER = "IMPASTO_SERVER"  # the variable in which a server's processes find its name
RESTARTED = "IMPASTO_RESTARTS"  # and how often it was restarted: JSON, times by reason


@dataclass(frozen=True)
class Charge:
    """What a guardian looks after: a server, its port, and the files that it would leave behind.

    models are those that can be asked to finish; grace_s is their time in seconds if the leash closes without a number.
    shm_prefix is the server's name, and the prefix of the names of its shared memory.
    """

    command: list[str]
    port: int
    models: list[str]
    grace_s: float
    shm_prefix: str
    workspace: str


def drain_address(server: str, model: str) -> str:
    """The socket address where a model of `server` is asked to finish.

    It contains the server's unique name, not a process id: these addresses belong to the network, and in containers
    that share one, process ids repeat.
    """
    return f"\0{server}drain-{model}"


def main() -> None:
    leash = FileIO(0)
    charge = Charge(**json.loads(leash.readline()))
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda number, frame: None)  # not SIG_IGN, which the server would inherit
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    tie, held = os.pipe()  # only this process has `held`
    # The reader of its log may be gone, so SIGPIPE stays ignored, as in Python.
    server = subprocess.Popen(
        charge.command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        restore_signals=False,
        pass_fds=[tie],
        preexec_fn=partial(_tie, tie, os.getpid()),
    )
    os.close(tie)
    leaving = Leaving(leash, charge, server.pid)
    status = server.wait()
    _kill(server.pid)
    with suppress(ChildProcessError):
        while True:  # shared memory is unlinked only when no process is left that could make more
            os.waitpid(-1, 0)
    os.close(held)
    clean(charge)
    sys.exit(leaving.status() if leaving.begun else status if status >= 0 else SIGNALLED - status)


def clean(charge: Charge) -> None:
    """Remove the files of a server that has ended."""
    for region in Path("/dev/shm").glob(f"{charge.shm_prefix}*"):
        region.unlink(missing_ok=True)
    rmtree(charge.workspace, ignore_errors=True)


class Leaving:
    """A thread that waits until the leash closes and then ends the server."""

    def __init__(self, leash: FileIO, charge: Charge, server_pid: int) -> None:
        self._leash = leash
        self._charge = charge
        self._server_pid = server_pid
        self.begun = False
        self._status = 0
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def status(self) -> int:
        """The guardian's exit status; waits until all models have answered, even if the server died meanwhile."""
        self._thread.join()
        return self._status

    def _run(self) -> None:
        said = self._leash.readall()  # returns when the other end is closed
        self.begun = True
        if said != NOW.encode():
            self._finish(float(said) if said else self._charge.grace_s)
        _kill(self._server_pid)

    def _finish(self, grace_s: float) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._server_pid, signal.SIGTERM)  # from now on it isn't ready; its gate keeps the models loaded
        if drain(self._charge.shm_prefix, self._charge.models, grace_s):
            self._status = CUT
        flush(self._charge.port)


def drain(server: str, models: Sequence[str], grace_s: float) -> int:
    """Let the models refuse new requests and finish theirs; returns how many were cut off."""
    asked = [line for model in models if (line := _ask(drain_address(server, model), grace_s)) is not None]
    deadline = monotonic() + grace_s + SLACK_S
    return sum(_answer(line, deadline) for line in asked)


def flush(port: int) -> None:
    """Wait until nothing is on its way to the clients of `port`, as far as this machine can tell."""
    deadline = monotonic() + FLUSH_S
    quiet_since = monotonic()
    while monotonic() < min(deadline, quiet_since + QUIET_S):
        if unsent(port):
            quiet_since = monotonic()
        sleep(0.02)


def unsent(port: int) -> int:
    """Bytes that clients connected to `port` of this machine haven't received yet."""
    count = 0
    for table in ("tcp", "tcp6"):
        with suppress(OSError):  # without IPv6
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                local, queues = line.split()[1], line.split()[4]
                if int(local.rpartition(":")[2], 16) == port:
                    count += int(queues.partition(":")[0], 16)
    return count


def _ask(address: str, grace_s: float) -> socket.socket | None:
    """Ask a model to finish; None where none listens (not yet, or no longer)."""
    line = socket.socket(socket.AF_UNIX)
    try:
        line.connect(address)
        line.sendall(f"{grace_s}\n".encode())
    except OSError:
        line.close()
        return None
    return line


def _answer(line: socket.socket, deadline: float) -> int:
    """How many requests a model cut off; 1 if it ends without an answer or gives none in time."""
    with line:
        try:
            line.settimeout(max(0.01, deadline - monotonic()))
            return int(line.recv(32))
        except (OSError, ValueError):
            return 1


def _tie(tie: int, guardian: int) -> None:
    """Run in the child before it becomes the server: its process group is killed when the pipe's other end closes.

    The kernel does this, to the whole group, since a model's process may hang when the server is gone.
    """
    fcntl.fcntl(tie, fcntl.F_SETOWN, -os.getpid())
    fcntl.fcntl(tie, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(tie, fcntl.F_SETFL, fcntl.fcntl(tie, fcntl.F_GETFL) | os.O_ASYNC)
    if os.getppid() != guardian:
        os._exit(1)


def _kill(leader: int) -> None:
    """Send SIGKILL to the process group of `leader`."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


if __name__ == "__main__":
    main()

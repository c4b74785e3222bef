"""The process between `impasto serve` and its tritonserver. It outlives both, and leaves nothing behind.

    impasto serve ──(leash: a pipe)──► guardian ──► tritonserver ──► a process for each Python model

It starts the server and waits for one of two ends. The server ends: then what it started is ended, too. Or the leash
ends, because `impasto serve` let go of it or was killed: then the server is told to stop and the models are asked to
finish what they have, and the server is ended by force once there is nothing left in it. (Triton's own way out would
wait half a minute for requests that were cancelled at a bad moment, and answer NOT_FOUND meanwhile.)

Runs as a script on the standard library alone, so that it starts at once and depends on no environment.
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

CUT = 3  # its exit status when requests were still under way at the end of their grace; 0 when none were
SIGNALLED = 128  # and this plus its number when a signal ended the server
SLACK_S = 5.0  # for models to say that they are done, after the grace
QUIET_S = 0.3  # how long nothing must be on its way to a client before the server may be ended
FLUSH_S = 5.0  # and how long a slow client is waited for
PR_SET_CHILD_SUBREAPER = 36
SERVER = "IMPASTO_SERVER"  # the variable in which a server's processes find its name


@dataclass(frozen=True)
class Charge:
    """What a guardian looks after: a server, the port it answers on, and what it would leave behind.

    models are those that can be asked to finish, within grace_s seconds where the leash breaks without a word.
    shm_prefix begins the names of its shared memory, and is its own name.
    """

    command: list[str]
    port: int
    models: list[str]
    grace_s: float
    shm_prefix: str
    workspace: str


def drain_address(server: str, model: str) -> str:
    """Where the process of a model is asked to finish, which knows its server's name (SERVER).

    A name that no other has: process ids repeat in containers that share a network, and with it these addresses.
    """
    return f"\0{server}drain-{model}"


def main() -> None:
    leash = FileIO(0)
    charge = Charge(**json.loads(leash.readline()))
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda number, frame: None)  # not SIG_IGN, which the server would inherit
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    tie, held = os.pipe()  # `held` is this process's alone
    # Nobody may be left to read its log: SIGPIPE stays ignored, as Python has it.
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
        while True:  # memory may be unlinked only when nobody makes more of it
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
    """Waits for the end of the leash in a thread of its own, and ends the server then."""

    def __init__(self, leash: FileIO, charge: Charge, server_pid: int) -> None:
        self._leash = leash
        self._charge = charge
        self._server_pid = server_pid
        self.begun = False
        self._status = 0
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def status(self) -> int:
        """What the guardian ends with; known when all are asked, also where the server died over it."""
        self._thread.join()
        return self._status

    def _run(self) -> None:
        said = self._leash.readall()  # returns when nobody holds the other end any more
        self.begun = True
        grace_s = float(said) if said else self._charge.grace_s
        with suppress(ProcessLookupError):
            os.kill(self._server_pid, signal.SIGTERM)  # not ready from now on; its gate keeps its models
        if drain(self._charge.shm_prefix, self._charge.models, grace_s):
            self._status = CUT
        flush(self._charge.port)
        _kill(self._server_pid)


def drain(server: str, models: Sequence[str], grace_s: float) -> int:
    """Have the models take nothing new and finish what they have; how many requests were cut off."""
    asked = [line for model in models if (line := _ask(drain_address(server, model), grace_s)) is not None]
    deadline = monotonic() + grace_s + SLACK_S
    return sum(_answer(line, deadline) for line in asked)


def flush(port: int) -> None:
    """Wait until nothing is on its way to the clients of `port`, as far as that can be seen from here."""
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
        with suppress(OSError):  # no IPv6 here
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                local, queues = line.split()[1], line.split()[4]
                if int(local.rpartition(":")[2], 16) == port:
                    count += int(queues.partition(":")[0], 16)
    return count


def _ask(address: str, grace_s: float) -> socket.socket | None:
    """None where no model listens (yet, or any more)."""
    line = socket.socket(socket.AF_UNIX)
    try:
        line.connect(address)
        line.sendall(f"{grace_s}\n".encode())
    except OSError:
        line.close()
        return None
    return line


def _answer(line: socket.socket, deadline: float) -> int:
    """A model that ends without a word, or never has one, had something to do."""
    with line:
        try:
            line.settimeout(max(0.01, deadline - monotonic()))
            return int(line.recv(32))
        except (OSError, ValueError):
            return 1


def _tie(tie: int, guardian: int) -> None:
    """Runs in the child before it becomes the server: has its group killed when nobody holds the pipe's other end.

    The kernel does that, to all processes of the group: a model's may hang when the server is gone.
    """
    fcntl.fcntl(tie, fcntl.F_SETOWN, -os.getpid())
    fcntl.fcntl(tie, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(tie, fcntl.F_SETFL, fcntl.fcntl(tie, fcntl.F_GETFL) | os.O_ASYNC)
    if os.getppid() != guardian:
        os._exit(1)


def _kill(leader: int) -> None:
    """SIGKILL everything in the process group that `leader` started."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


if __name__ == "__main__":
    main()

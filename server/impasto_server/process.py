"""A child process that can't outlive its parent, and what /proc says about its children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

# Runs in the child before it becomes the program: asks the kernel for SIGTERM when the parent is gone, and looks
# whether it already is. Not a preexec_fn, which may deadlock under threads.
_TIE = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit(0)
os.execv(sys.argv[2], sys.argv[2:])
"""


def start_tied(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start `command` in a process group of its own, stdout and stderr in one pipe.

    It gets SIGTERM when the thread that called this ends, however that happens.
    """
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), *command],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def children(parent: int) -> list[int]:
    """Living direct children of process `parent` (a zombie is dead)."""
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if is_child(pid, parent)]


def is_child(pid: int, parent: int) -> bool:
    """Whether `pid` lives and is a child of `parent`."""
    try:
        # "pid (name) state ppid ...": the name may hold anything, so read from its closing bracket on.
        state, ppid = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX" and int(ppid) == parent


def kill_group(leader: int) -> None:
    """SIGKILL everything in the process group that `leader` started."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)

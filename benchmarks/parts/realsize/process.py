"""A child process, what it took, and whether this machine has room for what it is about to need."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryFile
from time import perf_counter

Command = list[str | Path]

THREADS = len(os.sched_getaffinity(0))
# What a child depends on beside its arguments.
ENVIRONMENT = {"OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
GB = 1e9
TAIL = 600  # characters of what a child said last


class Unmeasured(Exception):
    """Why a figure could not be had: one sentence."""


@dataclass(frozen=True)
class Ran:
    """`peak_bytes` is the largest resident memory, mapped files included; it is never below this process's own."""

    seconds: float
    peak_bytes: int


def run(what: str, command: Command) -> Ran:
    """Run to the end. Raises Unmeasured with the last of its stderr when it fails."""
    started = perf_counter()
    with TemporaryFile() as said:
        child = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, **ENVIRONMENT})
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise Unmeasured(f"{what}: exit status {child.returncode}: {_tail(said.fileno())}")
    return Ran(perf_counter() - started, 1024 * usage.ru_maxrss)


def impasto(*arguments: str | Path) -> Command:
    """The command line of this interpreter's environment."""
    return [Path(sys.executable).with_name("impasto"), *arguments]


def check_disk(folder: Path, needed: int) -> None:
    """Raises Unmeasured when `folder`'s disk has fewer bytes left than `needed`."""
    free = disk_usage(folder).free
    if free < needed:
        raise Unmeasured(
            f"{folder}: {needed / GB:.1f} GB are needed and {free / GB:.1f} GB are free; make room, or choose --work"
        )


def check_memory(what: str, needed: int) -> None:
    """Raises Unmeasured when less than `needed` bytes of memory are available."""
    available = memory()["MemAvailable"]
    if available < needed:
        raise Unmeasured(
            f"{what}: {needed / GB:.1f} GB of memory are needed and {available / GB:.1f} GB are available; end what "
            "else is running"
        )


def memory() -> Mapping[str, int]:
    """Bytes, as the kernel calls them."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines}


def own_peak() -> int:
    """Bytes of this process's largest resident memory."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget(folder: Path) -> None:
    """Write out the files of `folder` and drop them from the page cache: the next reader gets them from the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)


def _tail(handle: int) -> str:
    end = os.lseek(handle, 0, os.SEEK_END)
    text = os.pread(handle, TAIL, max(0, end - TAIL)).decode(errors="replace")
    return " ".join(text.split()) or "it said nothing"

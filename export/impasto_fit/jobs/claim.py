"""Who works on a job: a lock on a file of its folder, which the kernel lets go of when its holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from impasto_fit.jobs.job import LOCK, Job


@contextmanager
def claimed(job: Job) -> Iterator[bool]:
    """Whether the job is this process's until the block ends; never waits. Of several, one gets it."""
    try:
        handle = os.open(job.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except FileNotFoundError:  # the folder is gone
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(handle)


def is_claimed(job: Job) -> bool:
    """Whether somebody lives who works on it."""
    with claimed(job) as mine:
        return not mine

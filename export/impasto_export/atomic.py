"""Write files and folders atomically: they appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp, mkstemp

from impasto_export.errors import DiskFull

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def folder(target: Path) -> Iterator[Path]:
    """Yield an empty sibling of `target`; rename it into place on success, remove it on failure.

    A previous `target` is moved aside first, since a folder cannot be renamed over one that has files. If the block
    removes the yielded folder, `target` stays as it is. If `target` is a link, the folder that it points to is
    replaced. Raises DiskFull when there is no room.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    draft.chmod(0o755)
    try:
        yield draft
        if draft.exists():
            with alone(target.parent):
                _swap(draft, target)
    except OSError as error:
        if error.errno not in FULL:
            raise
        shutil.rmtree(draft, ignore_errors=True)
        free = shutil.disk_usage(target.parent).free >> 20
        problem = f"its disk has too little room ({free} MiB are free), and nothing was changed"
        raise DiskFull(f"{target}: {problem}; make room, or choose a folder on another disk") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _swap(draft: Path, target: Path) -> None:
    if not target.exists():
        draft.rename(target)
        return
    aside = Path(mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(aside)
    try:
        draft.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: one process at a time changes what is in it. Readers don't wait."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write(target: Path, data: bytes) -> None:
    """Write beside `target`, fsync, rename over it, fsync the folder: a reader sees the old file or the new one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = mkstemp(prefix=f".{target.name}.", dir=target.parent)
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.chmod(0o644)
        draft.replace(target)
        sync_folder(target.parent)
    finally:
        draft.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

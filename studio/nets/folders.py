"""Folders of checkpoints, changed as a whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Yields a path for a fresh folder, which takes `folder`'s place then: a reader never sees half of it."""
    fresh, old = (folder.with_name(folder.name + end) for end in (".fresh", ".old"))
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    yield fresh
    if folder.exists():
        os.rename(folder, old)
    os.rename(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)

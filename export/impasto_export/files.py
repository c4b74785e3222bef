"""Files of a bundle: digest several at a time, and hard-link or copy them into its folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event

from impasto_export.architecture import Json
from impasto_export.weights import sha256_file

# Called with what is being done ("reading NAME"), the bytes done, and the bytes in all.
Progress = Callable[[str, int, int], object]
BLOCK = 8 << 20
READERS = min(4, os.cpu_count() or 1)
# The hub's cache keeps a large file under the sha256 of its content, and links to it from the snapshots.
HUB_BLOBS, SHA256 = "blobs", re.compile(r"[0-9a-f]{64}")


def silent(what: str, done: int, total: int) -> None:
    """The progress that shows nothing."""


def facts(sources: Mapping[str, Path], progress: Progress = silent) -> dict[str, Json]:
    """The manifest's entries of weights, by name in the bundle: sha256 and bytes."""
    pool, stop = ThreadPoolExecutor(READERS), Event()

    def advance(what: str, done: int, total: int) -> None:
        if stop.is_set():
            raise InterruptedError
        progress(what, done, total)

    try:
        # hashlib leaves other threads running while it digests a block.
        return dict(zip(sources, pool.map(partial(_facts, advance), sources, sources.values()), strict=True))
    finally:
        stop.set()  # ends the readers that still run when one fails, or when the user interrupts
        pool.shutdown(cancel_futures=True)


def _facts(progress: Progress, name: str, path: Path) -> Json:
    size = path.stat().st_size
    known = SHA256.fullmatch(path.name) and path.parent.name == HUB_BLOBS
    sha256 = path.name if known else sha256_file(path, lambda done: progress(f"reading {name}", done, size))
    return {"sha256": sha256, "bytes": size}


def place_file(source: Path, target: Path, progress: Progress = silent) -> bool:
    """Hard-link, else copy; True when linked. External data must lie in the graph's own folder."""
    try:
        os.link(source, target)
    except OSError:
        _copy(source, target, progress)
        return False
    return True


def _copy(source: Path, target: Path, progress: Progress) -> None:
    size, done = source.stat().st_size, 0
    with source.open("rb") as read, target.open("wb") as write:
        while block := read.read(BLOCK):
            write.write(block)
            done += len(block)
            progress(f"copying {target.name}", done, size)

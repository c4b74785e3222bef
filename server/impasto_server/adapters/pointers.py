"""Names' pointers as a store last had them, kept on this machine's disk: a restarted server still knows them."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from time import time

from impasto_server import atomic
from impasto_server.adapters.shelf import MAX_POINTER
from impasto_server.strangers import Unfit, read_file, read_json

CLOCKS_S = 0.1  # by which a file system's clock may be ahead of ours
MOST = MAX_POINTER + 1024  # bytes of a kept file: a pointer and its e-tag


@dataclass(frozen=True)
class Kept:
    """A pointer, its e-tag in the store, and how long ago that was last asked for, in seconds."""

    data: bytes
    e_tag: str | None
    age_s: float


@dataclass(frozen=True)
class Pointers:
    """A folder with a file for each name. Its modification time says when the store was last asked."""

    folder: Path

    def get(self, name: str) -> Kept | None:
        """None where nothing is kept, or what is kept is damaged."""
        path = self.folder / name
        try:
            asked_at = path.stat().st_mtime
            head, _, data = read_file(path, MOST).partition(b"\n")
            e_tag = read_json(head)
        except (OSError, Unfit):
            return None
        age_s = time() - asked_at
        known_s = max(0.0, age_s) if age_s > -CLOCKS_S else inf  # the clock was set back: it may be of any age
        return Kept(data, e_tag if isinstance(e_tag, str) else None, known_s)

    def put(self, name: str, data: bytes, e_tag: str | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic.write(self.folder / name, json.dumps(e_tag).encode() + b"\n" + data)

    def drop(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def confirm(self, name: str, ago_s: float = 0.0) -> None:
        """Note that the store has the same one still, or had so a while ago."""
        with suppress(FileNotFoundError):
            os.utime(self.folder / name, (time() - ago_s, time() - ago_s))

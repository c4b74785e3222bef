"""Where a registry lies: the one interface that names and objects are read through, and its plain case, a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol

from impasto_server.adapters.access import Attempt
from impasto_server.strangers import opened, read_file

MAX_POINTER = 4 << 10  # bytes of a name's file, which holds a digest
MAX_NAMES = 20_000  # names that are listed


class NotNow(Exception):
    """What was asked for can't be had now, and may be later. The message completes the sentence "the registry …"."""


@dataclass(frozen=True)
class Pointer:
    """What a name's file holds. `stale_s` is 0, or how long ago the file was last known to be the current one, in
    seconds, where that can't be asked now.
    """

    data: bytes
    stale_s: float = 0.0


class Shelf(Protocol):
    """Holds pointers by name and objects by digest. Every method may be called from any thread.

    All of them raise NotNow where the registry doesn't answer, Unfit for what is no valid file, and OSError.
    """

    def names(self) -> list[str]:
        """The names that have a pointer, in no order; some may be invalid."""

    def knows(self, name: str) -> bool:
        """Whether `pointer` answers without waiting for another machine for long. Never waits itself."""

    def pointer(self, name: str) -> Pointer:
        """The name's pointer. Raises FileNotFoundError where there is none."""

    def has(self, digest: str) -> bool:
        """Whether `object` answers without another machine. Never waits itself."""

    def object(self, digest: str, most: int, attempt: Attempt) -> AbstractContextManager[BinaryIO]:
        """The object's file; one of more than `most` bytes is Unfit. `attempt` is told of progress.

        Raises FileNotFoundError where there is none.
        """

    def start(self, digest: str, most: int, length: int) -> bytes:
        """The first `length` bytes of an object, or all of a shorter one. Raises as `object`."""

    def spoiled(self, digest: str) -> bool:
        """Be told that an object's bytes don't match its digest. True if another look may find better ones."""


@dataclass(frozen=True)
class Folder:
    """`names/<name>.json` and `objects/<digest>.safetensors` on this machine, or on a file system that it mounts."""

    folder: Path

    def names(self) -> list[str]:
        """At most MAX_NAMES; none where the folder can't be read."""
        try:
            with os.scandir(self.folder / "names") as entries:
                files = [entry.name for entry in islice(entries, MAX_NAMES)]
        except OSError:
            return []
        return [file.removesuffix(".json") for file in files if file.endswith(".json")]

    def knows(self, name: str) -> bool:
        return True

    def pointer(self, name: str) -> Pointer:
        return Pointer(read_file(self.folder / "names" / f"{name}.json", MAX_POINTER))

    def has(self, digest: str) -> bool:
        return True

    @contextmanager
    def object(self, digest: str, most: int, attempt: Attempt) -> Iterator[BinaryIO]:
        with opened(self._object(digest), most) as file:
            yield file

    def start(self, digest: str, most: int, length: int) -> bytes:
        with opened(self._object(digest), most) as file:
            return file.read(length)

    def spoiled(self, digest: str) -> bool:
        return False

    def _object(self, digest: str) -> Path:
        return self.folder / "objects" / f"{digest}.safetensors"

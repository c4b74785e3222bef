"""Copies of a store's objects on this machine's disk, shared by its processes: each is downloaded once, and checked.

A download holds a lock on the file that it fills, `.<digest>.part`, and renames it when its digest is right. The lock
goes with its process, however that ends; then the next process that wants the object starts anew. Whoever reads a copy
holds a shared lock on it; the copies that were used longest ago make room for others, but none that is being read.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import BinaryIO

from impasto_server.adapters.access import Attempt
from impasto_server.adapters.shelf import NotNow
from impasto_server.strangers import Unfit, opened

LOOK_S = 0.05  # between looks at another process's download
_log = logging.getLogger(__name__)

Fetch = Callable[[], tuple[int, Iterator[bytes]]]  # starts a download: its size, and its bytes as they come


@dataclass(frozen=True)
class Copies:
    """A folder of objects by digest. `most_bytes` bounds the size of all of them."""

    folder: Path
    most_bytes: int

    def has(self, digest: str) -> bool:
        return self._path(digest).exists()

    @contextmanager
    def opened(self, digest: str, most: int, fetch: Fetch, attempt: Attempt) -> Iterator[BinaryIO]:
        """Open the copy of an object, which is downloaded if there is none.

        Raises Unfit for an object of more than `most` bytes, or whose bytes don't match its digest; NotNow where the
        disk is full; and as `fetch`.
        """
        with ExitStack() as stack:
            file = self._open(digest, most, stack)
            while file is None:
                self._download(digest, most, fetch, attempt)
                file = self._open(digest, most, stack)
            fcntl.flock(file, fcntl.LOCK_SH)
            os.utime(file.fileno())  # its modification time says when it was last used
            yield file

    def start(self, digest: str, most: int, length: int) -> bytes:
        """The first bytes of a copy. Raises FileNotFoundError where there is none."""
        with opened(self._path(digest), most) as file:
            return file.read(length)

    def drop(self, digest: str) -> None:
        """Delete a copy, whoever reads it."""
        self._path(digest).unlink(missing_ok=True)

    def _open(self, digest: str, most: int, stack: ExitStack) -> BinaryIO | None:
        with suppress(FileNotFoundError):
            return stack.enter_context(opened(self._path(digest), most))
        return None

    def _download(self, digest: str, most: int, fetch: Fetch, attempt: Attempt) -> None:
        """Download the object, or wait until another thread or process that does so ends, whatever it comes to."""
        draft = self.folder / f".{digest}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(draft, "ab") as file:
                if not _locked(file):
                    self._wait(file, attempt)
                elif _is(file, draft):
                    self._fill(file, draft, digest, most, fetch, attempt)
        except FileNotFoundError:  # in the store
            raise
        except OSError as error:
            _log.error("the cache %s can't be written: %s", self.folder, error.strerror)
            raise NotNow(f"'s cache on the server's disk can't be written ({error.strerror})") from None

    def _fill(self, file: BinaryIO, draft: Path, digest: str, most: int, fetch: Fetch, attempt: Attempt) -> None:
        try:
            if self.has(digest):  # another's download has just ended
                return draft.unlink()
            file.truncate(0)  # an earlier download may have died
            size, parts = fetch()
            self._check(size, most)
            self._make_room(size, draft)
            found, count = hashlib.sha256(), 0
            for part in parts:
                attempt.moved()
                found.update(part)
                count += len(part)
                if count > size:
                    break
                file.write(part)
                file.flush()
            if count != size or found.hexdigest() != digest:
                raise Unfit(f"in the registry's store has other bytes than its digest says ({count} of {size} came)")
            os.fsync(file.fileno())
            draft.chmod(0o644)
            draft.rename(self._path(digest))
            _sync(self.folder)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise

    def _check(self, size: int, most: int) -> None:
        if size > most:
            raise Unfit(f"has {size} bytes, more than the {most} that it can need")
        if size > self.most_bytes:
            fix = "raise it with --registry-cache-bytes"
            raise Unfit(f"has {size} bytes, more than the server's cache of {self.most_bytes}; {fix}")

    def _wait(self, file: BinaryIO, attempt: Attempt) -> None:
        """Wait until another's download ends; its progress is ours."""
        had = 0
        while not _locked(file):
            size = os.fstat(file.fileno()).st_size
            if size != had:
                attempt.moved()
                had = size
            sleep(LOOK_S)

    def _make_room(self, size: int, mine: Path) -> None:
        """Delete copies, those used longest ago first, until `size` more bytes are within the bound."""
        with open(self.folder / ".lock", "ab") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            found = sorted(self._files(mine))
            excess = sum(nbytes for _, nbytes, _ in found) + size - self.most_bytes
            for _, nbytes, path in found:
                if excess <= 0:
                    break
                if _deleted(path):
                    excess -= nbytes

    def _files(self, mine: Path) -> Iterator[tuple[float, int, Path]]:
        """When each file was last used, its size and its path, but for `mine`."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith((".safetensors", ".part")) and entry.name != mine.name:
                    with suppress(FileNotFoundError):
                        facts = entry.stat()
                        yield facts.st_mtime, facts.st_size, Path(entry.path)

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}.safetensors"


def _locked(file: BinaryIO) -> bool:
    """Whether we have the file's lock now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(file: BinaryIO, path: Path) -> bool:
    """Whether the open file is still what has this name: whoever had its lock before may have renamed or deleted it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _deleted(path: Path) -> bool:
    """Delete a file unless somebody reads or fills it."""
    with suppress(FileNotFoundError), open(path, "rb") as file:
        if not _locked(file):
            return False
        path.unlink(missing_ok=True)
    return True


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

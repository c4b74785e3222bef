"""A registry in an object store, read through what this machine has of it already.

Names are asked for again when they are older than FRESH_S, by e-tag, so a re-pointed name is seen within a second.
While the store doesn't answer, a known name means what it last did, for `stale_s` at most, and callers are told so.
Objects never change: a copy is as good as the store's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from threading import Lock
from time import monotonic, sleep
from typing import BinaryIO

from impasto_server.adapters.access import Access, Attempt
from impasto_server.adapters.copies import Copies
from impasto_server.adapters.pointers import Kept, Pointers
from impasto_server.adapters.shelf import MAX_NAMES, MAX_POINTER, Folder, NotNow, Pointer, Shelf
from impasto_server.adapters.store import Same, Store
from impasto_server.settings import Settings, default_cache

FRESH_S = 0.5  # how old an answer about a name may be
KNOWN_S, NEW_S = 1.0, 8.0  # how long a name that is known waits for the store, and one that isn't
CALLS_PER_S = 100  # most calls about names, whatever the traffic
ABSENT = 10_000  # names that the store doesn't have, of which that is remembered for FRESH_S
_log = logging.getLogger(__name__)


def shelf_of(settings: Settings, fresh_s: float = FRESH_S) -> Shelf:
    """Where the settings' registry lies. `fresh_s` is how old an answer about a name may be, in seconds.

    Raises SetupError for an address that can't be opened.
    """
    if isinstance(settings.registry, Path):
        return Folder(settings.registry)
    store, cache = Store.at(settings.registry), settings.registry_cache or default_cache()
    return Bucket(store, cache, settings.registry_cache_bytes, settings.registry_stale_s, fresh_s)


class Bucket:
    """A Shelf. Its calls to the store are made by threads of its own, and have an end even where the store has none."""

    def __init__(self, store: Store, folder: Path, most_bytes: int, stale_s: float, fresh_s: float = FRESH_S) -> None:
        self._store = store
        self._copies = Copies(folder / "objects", most_bytes)
        self._pointers = Pointers(folder / "names" / sha256(store.address.encode()).hexdigest()[:16])
        self._stale_s = stale_s
        self._fresh_s = fresh_s
        self._asking = Access("store", limit_s=NEW_S)
        self._pace = Pace(CALLS_PER_S)
        self._absent: dict[str, float] = {}  # when each name was looked for in vain

    def names(self) -> list[str]:
        """The store's list, which also says which of the kept pointers are current: at most 1000 names a call."""
        listed = self._store.names("names", MAX_NAMES)
        found = {file.removesuffix(".json"): e_tag for file, e_tag in listed.items() if file.endswith(".json")}
        for name, e_tag in found.items():
            kept = self._pointers.get(name)
            if kept is not None:
                self._pointers.confirm(name, 0.0 if e_tag is not None and kept.e_tag == e_tag else 2 * self._fresh_s)
        return list(found)

    def knows(self, name: str) -> bool:
        kept = self._pointers.get(name)
        return kept is not None and kept.age_s <= self._stale_s

    def pointer(self, name: str) -> Pointer:
        kept = self._pointers.get(name)
        if kept is not None and kept.age_s <= self._fresh_s:
            return Pointer(kept.data)
        if kept is None and monotonic() - self._absent.get(name, -self._fresh_s) < self._fresh_s:
            raise FileNotFoundError(name)
        try:
            return self._asked(name, kept)
        except NotNow:
            if kept is None or kept.age_s > self._stale_s:
                raise
            return Pointer(kept.data, kept.age_s)

    def has(self, digest: str) -> bool:
        return self._copies.has(digest)

    @contextmanager
    def object(self, digest: str, most: int, attempt: Attempt) -> Iterator[BinaryIO]:
        fetch = partial(self._store.stream, _object(digest))
        with self._copies.opened(digest, most, fetch, attempt) as file:
            yield file

    def start(self, digest: str, most: int, length: int) -> bytes:
        try:
            return self._copies.start(digest, most, length)
        except FileNotFoundError:
            return self._beginning(digest, length)

    def spoiled(self, digest: str) -> bool:
        """A copy was right when it came, so the disk has spoiled it: delete it, and the next look gets another."""
        self._copies.drop(digest)
        return True

    def _asked(self, name: str, kept: Kept | None) -> Pointer:
        """The pointer as the store has it now. Raises FileNotFoundError, NotNow."""
        was_silent = self._store.is_silent
        asking: Future[Pointer] = self._asking.start(name, partial(self._ask, name), _late)
        patience_s = NEW_S if kept is None else 0.0 if was_silent else KNOWN_S
        try:
            return asking.result(patience_s)
        except TimeoutError:
            if not was_silent:
                self._store.suspect("does not answer")
            raise NotNow("'s store does not answer") from None

    def _ask(self, name: str, attempt: Attempt) -> Pointer:
        kept = self._pointers.get(name)
        if kept is not None and kept.age_s <= self._fresh_s:
            return Pointer(kept.data)  # another thread or process has just asked
        self._pace.wait()
        try:
            found = self._store.read(f"names/{name}.json", MAX_POINTER, kept.e_tag if kept is not None else None)
        except Same:
            assert kept is not None
            self._pointers.confirm(name)
            return Pointer(kept.data)
        except FileNotFoundError:
            self._forget(name)
            raise
        self._absent.pop(name, None)
        try:
            self._pointers.put(name, found.data, found.e_tag)
        except OSError as error:  # so it is asked for anew each time, and an outage is felt at once
            _log.error("the cache of names can't be written: %s", error)
        return Pointer(found.data)

    def _forget(self, name: str) -> None:
        self._pointers.drop(name)
        if len(self._absent) >= ABSENT:
            self._absent.clear()
        self._absent[name] = monotonic()

    def _beginning(self, digest: str, length: int) -> bytes:
        """The header is short, mostly: ask for a little, then for the rest if there is more."""
        first = self._store.begin(_object(digest), min(length, 64 << 10)).data
        wanted = min(length, 8 + int.from_bytes(first[:8], "little"))
        return first if len(first) >= wanted else self._store.begin(_object(digest), wanted).data


class Pace:
    """Calls to be made at most so often, evenly."""

    def __init__(self, per_s: float) -> None:
        self._every_s = 1 / per_s
        self._next_at = 0.0
        self._lock = Lock()

    def wait(self) -> None:
        """Return when it is the caller's turn."""
        with self._lock:
            at = max(self._next_at, monotonic())
            self._next_at = at + self._every_s
        sleep(max(0.0, at - monotonic()))


def _object(digest: str) -> str:
    return f"objects/{digest}.safetensors"


def _late(why: str) -> Exception:
    return NotNow("'s store does not answer")

"""The registry of adapters in an object store: `objects/<sha256>.safetensors` and `names/<name>.json`, as in a folder.

There is no lock that all writers could hold. A name is re-pointed by compare-and-swap; an object never changes, and is
deleted by `sweep` alone, when nothing has pointed to it for long.
"""

from __future__ import annotations

import difflib
import hashlib
import struct
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from weakref import finalize

from impasto_export.adapters.registry import (
    NAME,
    Entry,
    check_name,
    named,
    parsed_pointer,
    pointer_to,
    record_of,
    taken,
)
from impasto_export.errors import ExportError, RegistryError
from impasto_export.stores import WHOLE, About, Raced, Store
from impasto_export.weights import MAX_HEADER, Header, parse_header, read_header

TRIES = 5  # to re-point a name that others re-point at the same time
FIRST = 64 << 10  # bytes that hold most headers


class Bucket:
    """A registry in a store. Objects that are read whole are downloaded into a folder that goes with this."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @cached_property
    def _folder(self) -> Path:
        folder = Path(mkdtemp(prefix="impasto-registry-"))
        finalize(self, rmtree, folder, ignore_errors=True)
        return folder

    @property
    def place(self) -> str:
        return self.store.address

    def exists(self) -> bool:
        """A prefix needs no making."""
        return True

    def holds(self, name: str) -> bool:
        return NAME.fullmatch(name) is not None and self.store.about(_name(name)) is not None

    def put(self, name: str, data: bytes, file: str = "", new: bool = False) -> str:
        """As Registry.put. Raises RegistryError where another writer points the name elsewhere at the same time."""
        check_name(name)
        self.store.check_writable()
        digest = hashlib.sha256(data).hexdigest()
        first = seen = self._seen(name)
        if new and first is not None:
            raise taken(name)
        for _ in range(TRIES):
            self._upload(digest, data)
            try:
                self.store.put(_name(name), pointer_to(digest, file), seen and seen[1], new=seen is None)
            except Raced:
                seen = self._seen(name)
                if seen is not None and _digest(seen) == digest:
                    break
                if seen is not None and (first is None or _digest(seen) != _digest(first)):
                    raise taken(name) if new else _overtaken(name, _digest(seen)) from None
                continue  # it has been removed, or points where it did: what was to be done is still right
            break
        else:
            raise RegistryError(f"{name!r} is changed by others all the time; try again")
        self._upload(digest, data)  # a sweep may have taken it for forgotten, just before it had a name
        return digest

    def names(self) -> list[str]:
        found = (file.removesuffix(".json") for file in self.store.names("names") if file.endswith(".json"))
        return sorted(name for name in found if NAME.fullmatch(name))

    def show(self, name: str) -> Entry:
        """As Registry.show. Of the object only the header is read."""
        digest, file = self._pointed(name)
        return Entry(name, digest, named(record_of(self._beginning(digest)), file))

    def header(self, digest: str) -> Header:
        """As Registry.header; its file is here whole."""
        try:
            return read_header(self.file(digest))
        except RegistryError:
            raise
        except ExportError as error:
            raise _damaged(error) from None

    def file(self, digest: str) -> Path:
        """The object, downloaded. Its bytes may be wrong: whoever needs them compares the digest."""
        target = self._folder / f"{digest}.safetensors"
        if not target.exists():
            draft = target.with_suffix(".part")
            try:
                with draft.open("wb") as out:
                    for part in self.store.stream(_object(digest)):
                        out.write(part)
            except FileNotFoundError:
                raise self._missing(digest) from None
            draft.rename(target)
        return target

    def remove(self, name: str) -> str:
        """Delete the pointer; returns its digest. The object stays, until `sweep` finds that nothing points to it."""
        self.store.check_writable()
        digest = self._pointed(name)[0]
        self.store.delete(_name(name))
        return digest

    def sweep(self, older: timedelta) -> list[str]:
        """Delete objects that no name points to and that were written longer ago than `older`; returns their digests.

        So a writer has that long to point a name to what it has uploaded. Raises RegistryError for a damaged pointer,
        since what it pointed to can't be told.
        """
        self.store.check_writable()
        before = datetime.now(UTC) - older
        files = self.store.names("objects")
        old = {file for file, about in files.items() if file.endswith(".safetensors") and about.written < before}
        needed = {f"{self._pointed(name)[0]}.safetensors" for name in self.names()} if old else set()
        forgotten = [file for file in sorted(old - needed) if self._is_older(file, before)]
        for file in forgotten:
            self.store.delete(f"objects/{file}")
        return [file.removesuffix(".safetensors") for file in forgotten]

    def _is_older(self, file: str, before: datetime) -> bool:
        """Whether it is so still: a writer that finds an old object writes it again, to be safe."""
        about = self.store.about(f"objects/{file}")
        return about is not None and about.written < before

    def _upload(self, digest: str, data: bytes) -> None:
        """Write the object unless it is there: whole, and not so old that a sweep may be about to take it."""
        about = self.store.about(_object(digest))
        if about is not None and about.size == len(data) and datetime.now(UTC) - about.written < YOUNG:
            return
        with suppress(Raced):  # another writer has just written the same bytes
            self.store.put(_object(digest), data, new=about is None and len(data) <= WHOLE)

    def _seen(self, name: str) -> tuple[bytes, About] | None:
        try:
            return self.store.read(_name(name))
        except FileNotFoundError:
            return None

    def _pointed(self, name: str) -> tuple[str, str]:
        check_name(name)
        seen = self._seen(name)
        if seen is None:
            raise self._unknown(name)
        return parsed_pointer(seen[0], f"{self.place}/{_name(name)}")

    def _unknown(self, name: str) -> RegistryError:
        try:
            known = self.names()
        except ExportError:  # a web server lists nothing
            return RegistryError(f"no adapter named {name!r} in {self.place}")
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else f"; known: {', '.join(known) or 'none'}"
        return RegistryError(f"no adapter named {name!r} in {self.place}{hint}")

    def _beginning(self, digest: str) -> Header:
        """The object's header, without the rest."""
        try:
            raw, size = self.store.begin(_object(digest), FIRST)
            length = struct.unpack("<Q", raw[:8])[0] if len(raw) >= 8 else 0
            if length + 8 > len(raw) and length <= MAX_HEADER and len(raw) < size:
                raw, size = self.store.begin(_object(digest), length + 8)
            return parse_header(Path(f"{digest}.safetensors"), raw, size)
        except FileNotFoundError:
            raise self._missing(digest) from None
        except RegistryError:
            raise
        except ExportError as error:
            raise _damaged(error) from None

    def _missing(self, digest: str) -> RegistryError:
        return RegistryError(f"{self.place}: object {digest} is missing; import the adapter again")


YOUNG = timedelta(hours=12)  # half the least age at which a sweep deletes


def _digest(seen: tuple[bytes, About]) -> str:
    """The pointer's digest; "" for a damaged one, which an import may replace."""
    try:
        return parsed_pointer(seen[0], "")[0]
    except RegistryError:
        return ""


def _overtaken(name: str, theirs: str) -> RegistryError:
    problem = f"another writer has pointed {name!r} to {theirs[:12] or 'something'} meanwhile"
    return RegistryError(f"{problem}, so it was left at that; look at it, then import again")


def _damaged(error: ExportError) -> RegistryError:
    return RegistryError(f"an object is damaged; import the adapter again: {error}")


def _object(digest: str) -> str:
    return f"objects/{digest}.safetensors"


def _name(name: str) -> str:
    return f"names/{name}.json"

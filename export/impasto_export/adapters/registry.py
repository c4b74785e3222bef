"""The registry of adapters on disk: `objects/<sha256>.safetensors` are the files, `names/<name>.json` point to them.

Writing a pointer hot-swaps an adapter: both files are written atomically, the object first.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import time
from typing import Protocol

from impasto_export import atomic
from impasto_export.architecture import Json, parse_json
from impasto_export.errors import ExportError, RegistryError
from impasto_export.weights import Header, read_header, sha256_file

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
ENVIRONMENT = "IMPASTO_REGISTRY"
MAX_FILE = 500  # characters of a source's name that are kept; servers read pointers of up to 4 KiB


def default_place() -> str:
    """The folder or address that is used when none is named."""
    return os.environ.get(ENVIRONMENT) or str(Path.home() / ".local/share/impasto/registry")


@dataclass(frozen=True)
class Entry:
    """A name, the object it points to, and the `impasto` metadata in that object's header."""

    name: str
    digest: str
    record: Json


class AnyRegistry(Protocol):
    """What the commands do with a registry, wherever it lies. All raise RegistryError, and of a store StoreError."""

    @property
    def place(self) -> str:
        """The folder or address, for messages."""

    def exists(self) -> bool: ...

    def holds(self, name: str) -> bool:
        """Whether there is an adapter of this name; False also for what is no name."""

    def put(self, name: str, data: bytes, file: str = "", new: bool = False) -> str:
        """Store the adapter and point `name` at it; returns the digest. `file` is what its source was called. With
        `new`, a name that is taken is refused."""

    def names(self) -> list[str]: ...

    def show(self, name: str) -> Entry:
        """The name's entry. Raises RegistryError for an unknown name (with the nearest ones), or an unreadable file."""

    def header(self, digest: str) -> Header:
        """The header of an object, whose file is there to be read."""

    def file(self, digest: str) -> Path:
        """An object's file, unchecked."""

    def remove(self, name: str) -> str:
        """Delete the name, never an object that another name uses; returns the digest."""

    def sweep(self, older: timedelta) -> list[str]:
        """Delete the objects without a name that were written longer ago than this; returns their digests."""


@dataclass(frozen=True)
class Registry:
    """A registry in a folder."""

    folder: Path

    @property
    def place(self) -> str:
        return str(self.folder)

    def exists(self) -> bool:
        return self.folder.is_dir()

    def holds(self, name: str) -> bool:
        return NAME.fullmatch(name) is not None and self._name(name).is_file()

    def put(self, name: str, data: bytes, file: str = "", new: bool = False) -> str:
        """As AnyRegistry.put, atomically.

        An object that the name pointed at before stays until `remove`: a server may have resolved the name, but not
        read the file yet.
        """
        check_name(name)
        digest = hashlib.sha256(data).hexdigest()
        target = self._object(digest)
        with self._writing():
            if new and self.holds(name):
                raise taken(name)
            if not target.is_file() or sha256_file(target) != digest:
                atomic.write(target, data)
            atomic.write(self._name(name), pointer_to(digest, file))
        return digest

    def names(self) -> list[str]:
        return sorted(path.stem for path in (self.folder / "names").glob("*.json") if NAME.fullmatch(path.stem))

    def show(self, name: str) -> Entry:
        digest, file = self._pointed(name)
        return Entry(name, digest, named(record_of(self.header(digest)), file))

    def file(self, digest: str) -> Path:
        return self._object(digest)

    def header(self, digest: str) -> Header:
        try:
            return read_header(self._object(digest))
        except FileNotFoundError:
            raise RegistryError(f"{self.folder}: object {digest} is missing; import the adapter again") from None
        except ExportError as error:
            raise RegistryError(f"an object is damaged; import the adapter again: {error}") from None

    def remove(self, name: str) -> str:
        """Delete the pointer, and every object that no name points at any more; returns the pointer's digest."""
        with self._writing():
            digest = self._pointer(name)
            self._name(name).unlink()
            atomic.sync_folder(self.folder / "names")
            for path in self._forgotten():
                path.unlink()
        return digest

    def sweep(self, older: timedelta) -> list[str]:
        """A removal sweeps, too, so this finds what writers left that died."""
        before = time() - older.total_seconds()
        with self._writing():
            old = sorted(path for path in self._forgotten() if path.stat().st_mtime < before)
            for path in old:
                path.unlink()
        return [path.stem for path in old]

    def _forgotten(self) -> set[Path]:
        """The objects that no name points to."""
        needed = {self._object(self._pointer(other)) for other in self.names()}
        return set((self.folder / "objects").glob("*.safetensors")) - needed

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One writer at a time: a removal must not delete an object that is about to get a name. Readers don't wait."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = f"the registry cannot be made there ({error.strerror})"
            raise RegistryError(f"{self.folder}: {problem}; choose another folder with --registry") from None
        with atomic.alone(self.folder):
            yield

    def _pointer(self, name: str) -> str:
        return self._pointed(name)[0]

    def _pointed(self, name: str) -> tuple[str, str]:
        """The digest, and what the source was called; "" where that isn't known, or stands in the object."""
        check_name(name)
        path = self._name(name)
        if not path.is_file():
            near = difflib.get_close_matches(name, self.names(), n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else f"; known: {', '.join(self.names()) or 'none'}"
            raise RegistryError(f"no adapter named {name!r} in {self.folder}{hint}")
        return parsed_pointer(path.read_bytes(), str(path))

    def _object(self, digest: str) -> Path:
        return self.folder / "objects" / f"{digest}.safetensors"

    def _name(self, name: str) -> Path:
        return self.folder / "names" / f"{name}.json"


def pointer_to(digest: str, file: str) -> bytes:
    """A name's file."""
    pointer = {"digest": digest, **({"file": file[:MAX_FILE]} if file else {})}
    return json.dumps(pointer, ensure_ascii=False).encode(errors="replace")


def parsed_pointer(data: bytes, place: str) -> tuple[str, str]:
    """The digest, and what the source was called. Raises RegistryError, which calls the pointer `place`."""
    try:
        pointer = parse_json(data)
        digest, file = str(pointer["digest"]), str(pointer.get("file", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        digest = file = ""
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise RegistryError(f"{place} is damaged; import the adapter again")
    return digest, file


def taken(name: str) -> RegistryError:
    return RegistryError(f"{name!r} is taken; choose another name, or import without --new")


def record_of(header: Header) -> Json:
    try:
        record = parse_json(header.metadata["impasto"])
    except (KeyError, ValueError):
        raise RegistryError(f"{header.path} is not an impasto adapter") from None
    if not isinstance(record, dict):
        raise RegistryError(f"{header.path} is not an impasto adapter")
    return record


def check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise RegistryError(
            f"{name!r} is not an adapter's name: use up to 64 of a-z, 0-9, '.', '_', '-', first a letter or digit"
        )


def named(record: Json, file: str) -> Json:
    """The record with the name of its source's file, which older objects have in themselves."""
    source = record.get("source")
    return {**record, "source": {"file": file, **source}} if file and isinstance(source, dict) else record

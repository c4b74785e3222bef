"""The registry of adapter files: names → digests → adapters in host memory.

`impasto adapters` writes it. This module asks for each name anew, so the next request sees a new adapter or a
re-pointed name. Where the files lie, and how old an answer may be, is the shelf's business: shelf.py has the plain
folder, bucket.py an object store. Only regular files are read, and none larger than a valid one can be.
"""

from __future__ import annotations

import hashlib
import os
import re
from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from time import monotonic
from typing import BinaryIO

from impasto_server.adapters.access import Attempt
from impasto_server.adapters.adapter import (
    DELTA,
    EMBEDDING,
    FIELD,
    MAX_HEADER,
    Embedding,
    Patch,
    check_backbone,
    damaged,
    delta,
    header_of,
    heaviest,
    is_delta,
    parse,
)
from impasto_server.adapters.header import Header
from impasto_server.adapters.shelf import Folder, NotNow, Shelf
from impasto_server.bundle import Manifest
from impasto_server.errors import SHOWN, NoAnswer, NotFound, shown
from impasto_server.strangers import Unfit, read_json

MAX_COMPARED = 1_000  # names compared, for suggestions in place of an unknown one
LISTED_S = 1.0  # how old that list may be
CHUNK = 4 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Pointed:
    """The digest that a name points to. `stale_s` is 0, or its age in seconds where the registry doesn't answer now."""

    digest: str
    stale_s: float = 0.0


class Registry:
    """Pointers `names/<name>.json` → {"digest"} to `objects/<digest>.safetensors`, in a folder or on another shelf.

    `delta_bytes` bounds the size of a delta, which may be as large as weights. Every method raises NoAnswer where the
    registry doesn't answer.
    """

    def __init__(self, place: Path | Shelf, delta_bytes: int = 64 << 30) -> None:
        self._shelf: Shelf = Folder(place) if isinstance(place, Path) else place
        self._delta_bytes = delta_bytes
        self._names_then: tuple[float, list[str] | None] = (-LISTED_S, [])

    def names(self) -> list[str]:
        """Valid names, sorted."""
        with _answering("the registry"):
            return sorted(name for name in self._shelf.names() if _NAME.fullmatch(name))

    def knows(self, name: str) -> bool:
        """Whether `look_up` answers without waiting for another machine."""
        return self._shelf.knows(name) if _NAME.fullmatch(name) else True

    def has(self, digest: str) -> bool:
        """Whether `load` answers without waiting for another machine."""
        return self._shelf.has(digest)

    def _listed(self) -> list[str] | None:
        """`names`, at most LISTED_S old: else many unknown names would list the registry again and again. None where
        they can't be listed now, or ever, as of a plain web server.
        """
        listed_at, found = self._names_then
        if monotonic() - listed_at > LISTED_S:
            try:
                found = self.names()
            except NoAnswer:
                found = None
            self._names_then = monotonic(), found
        return found

    def resolve(self, name: str) -> str:
        """The digest that `name` points to now. Raises as `look_up`."""
        return self.look_up(name).digest

    def look_up(self, name: str, attempt: Attempt | None = None) -> Pointed:
        """What `name` points to now; `attempt` is told when all is read.

        Raises NotFound with the nearest names, and InvalidArgument where the pointer is damaged.
        """
        try:
            return self.pointed(name)
        except FileNotFoundError:
            known = self._listed()
            if attempt is not None:
                attempt.read()
            raise _unknown(name, known) from None

    def pointed(self, name: str) -> Pointed:
        """As `look_up`, but raises FileNotFoundError for an unknown name, without looking for similar ones."""
        try:
            if not _NAME.fullmatch(name):
                raise FileNotFoundError
            with _answering(f"adapter {name!r}"):
                pointer = self._shelf.pointer(name)
            digest = read_json(pointer.data)["digest"]
            if not _DIGEST.fullmatch(digest):
                raise ValueError
        except FileNotFoundError:
            raise
        except (OSError, ValueError, TypeError, KeyError):
            raise damaged(name, "its name in the registry doesn't point to a digest") from None
        return Pointed(str(digest), pointer.stale_s)

    def load(self, digest: str, name: str, manifest: Manifest, attempt: Attempt | None = None) -> Patch | Embedding:
        """Read and check the object `digest`; errors call it `name`. `attempt` is told whenever something was read.

        Raises NotFound when the object is gone, and InvalidArgument when it is damaged, too large or made for another
        backbone.
        """
        data, actual = self._read(digest, name, manifest, attempt or Attempt())
        if actual != digest and self._shelf.spoiled(digest):
            data, actual = self._read(digest, name, manifest, attempt or Attempt())
        if actual != digest:
            raise damaged(name, "its bytes don't match its digest")
        header = header_of(data, name)
        if header.get("kind") == DELTA:
            return delta(header, digest, name, manifest)
        return parse(data, digest, name, manifest)

    def header(self, digest: str, name: str) -> Header:
        """The header of the object `digest`; errors call it `name`. The rest is neither read nor checked.

        Raises NotFound when the object is gone, and InvalidArgument when the header can't be read.
        """
        with self._reading(name):
            return Header.of(self._shelf.start(digest, self._delta_bytes, 8 + MAX_HEADER), name)

    def _read(self, digest: str, name: str, manifest: Manifest, attempt: Attempt) -> tuple[bytes, str]:
        """The bytes of an object (of a delta only the first) and the digest of all of them. Raises as `load`."""
        most = heaviest(manifest)
        with self._reading(name), self._shelf.object(digest, max(most, self._delta_bytes), attempt) as file:
            begin, size = file.read(8 + MAX_HEADER), os.fstat(file.fileno()).st_size
            parts = _parts(begin, file, size, attempt)
            if is_delta(begin):
                return begin, _sha256(parts)
            if size > most:
                header = header_of(begin, name)
                if header.get("kind") != EMBEDDING:
                    check_backbone(header, name, manifest)  # the likelier reason: another backbone
                raise Unfit(f"has {size} bytes, more than the {most} that it can need")
            data = b"".join(parts)
        return data, _sha256([data])

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Turn what a shelf raises for an object into what `load` does."""
        try:
            with _answering(f"adapter {name!r}"):
                yield
        except FileNotFoundError:
            raise _gone(name) from None
        except Unfit as error:
            raise damaged(name, f"its file {error}") from None
        except OSError as error:
            raise damaged(name, f"its file can't be read ({error.strerror})") from None


@contextmanager
def _answering(what: str) -> Iterator[None]:
    """Turn NotNow into NoAnswer, about `what`."""
    try:
        yield
    except NotNow as error:
        raise NoAnswer(FIELD, f"{what}: the registry{error}", "try again later, or name no adapter") from None


def _parts(begin: bytes, rest: BinaryIO, size: int, attempt: Attempt) -> Iterator[bytes]:
    """The first `size` bytes of a file in parts; `begin` is read already. What is appended meanwhile is ignored."""
    yield begin
    left = size - len(begin)
    while left > 0 and (part := rest.read(min(CHUNK, left))):
        attempt.moved()
        left -= len(part)
        yield part
    attempt.read()


def _sha256(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def _gone(name: str) -> NotFound:
    problem = f"adapter {name!r} points to an object that isn't in the registry"
    return NotFound(FIELD, problem, "import it again with `impasto adapters import`")


def _unknown(name: str, known: Sequence[str] | None) -> NotFound:
    if known is None:
        return NotFound(FIELD, f"no adapter {shown(name)}", "check its spelling; the registry can't list its names now")
    others = [other for other in _around(name, known) if other != name]  # listed, but gone since
    near = get_close_matches(name[: 2 * SHOWN], others, n=3)
    listed = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    if not known:
        fix = "the server's registry is empty or missing; fill it with `impasto adapters import`"
    else:
        fix = f"did you mean {' or '.join(map(repr, near))}? known: {listed}" if near else f"known: {listed}"
    return NotFound(FIELD, f"no adapter {shown(name)}", fix)


def _around(name: str, known: Sequence[str]) -> Sequence[str]:
    """The part of many sorted names that is nearest to this one: comparing with all would take too long."""
    begin = max(0, min(bisect(known, name) - MAX_COMPARED // 2, len(known) - MAX_COMPARED))
    return known[begin : begin + MAX_COMPARED]

"""The registry of adapter files: names → digests → adapters in host memory.

`impasto adapters` writes it. This module reads each name anew, so the next request sees a new adapter or a re-pointed
name. It reads only regular files, and none larger than a valid one can be.
"""

from __future__ import annotations

import hashlib
import os
import re
from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from itertools import islice
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
from impasto_server.bundle import Manifest
from impasto_server.errors import SHOWN, NotFound, shown
from impasto_server.strangers import Unfit, opened, read_file, read_json

MAX_POINTER = 4 << 10  # bytes of a name's file, which holds a digest
MAX_NAMES, MAX_COMPARED = 20_000, 1_000  # names listed, and compared, for suggestions in place of an unknown one
LISTED_S = 1.0  # how old that list may be
CHUNK = 4 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Registry:
    """A folder of `names/<name>.json` → {"digest"} and `objects/<digest>.safetensors`.

    `delta_bytes` bounds the size of a delta, which may be as large as weights.
    """

    def __init__(self, folder: Path, delta_bytes: int = 64 << 30) -> None:
        self._folder = folder
        self._delta_bytes = delta_bytes
        self._names_then: tuple[float, list[str]] = (-LISTED_S, [])

    def names(self) -> list[str]:
        """Valid names, sorted; at most MAX_NAMES of them."""
        try:
            with os.scandir(self._folder / "names") as entries:
                files = [entry.name for entry in islice(entries, MAX_NAMES)]
        except OSError:
            return []
        found = (file.removesuffix(".json") for file in files if file.endswith(".json"))
        return sorted(name for name in found if _NAME.fullmatch(name))

    def _listed(self) -> list[str]:
        """`names`, at most LISTED_S old: else many unknown names would list the folder again and again."""
        listed_at, found = self._names_then
        if monotonic() - listed_at > LISTED_S:
            found = self.names()
            self._names_then = monotonic(), found
        return found

    def resolve(self, name: str, attempt: Attempt | None = None) -> str:
        """The digest that `name` points to now; `attempt` is told when all is read.

        Raises NotFound with the nearest names, and InvalidArgument where the pointer is damaged.
        """
        try:
            return self.pointed(name)
        except FileNotFoundError:
            known = self._listed()
            if attempt is not None:
                attempt.read()
            raise _unknown(name, known) from None

    def pointed(self, name: str) -> str:
        """As `resolve`, but raises FileNotFoundError for an unknown name, without looking for similar ones."""
        try:
            if not _NAME.fullmatch(name):
                raise FileNotFoundError
            digest = read_json(read_file(self._folder / "names" / f"{name}.json", MAX_POINTER))["digest"]
            if not _DIGEST.fullmatch(digest):
                raise ValueError
        except FileNotFoundError:
            raise
        except (OSError, ValueError, TypeError, KeyError):
            raise damaged(name, "its name in the registry doesn't point to a digest") from None
        return str(digest)

    def load(self, digest: str, name: str, manifest: Manifest, attempt: Attempt | None = None) -> Patch | Embedding:
        """Read and check the object `digest`; errors call it `name`. `attempt` is told whenever something was read.

        Raises NotFound when the object is gone, and InvalidArgument when it is damaged, too large or made for another
        backbone.
        """
        data, actual = self._read(digest, name, manifest, attempt)
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
        try:
            with opened(self._folder / "objects" / f"{digest}.safetensors", self._delta_bytes) as file:
                return Header.of(file.read(8 + MAX_HEADER), name)
        except FileNotFoundError:
            raise _gone(name) from None
        except Unfit as error:
            raise damaged(name, f"its file {error}") from None
        except OSError as error:
            raise damaged(name, f"its file can't be read ({error.strerror})") from None

    def _read(self, digest: str, name: str, manifest: Manifest, attempt: Attempt | None) -> tuple[bytes, str]:
        """The bytes of an object (of a delta only the first) and the digest of all of them. Raises as `load`."""
        most = heaviest(manifest)
        try:
            with opened(self._folder / "objects" / f"{digest}.safetensors", max(most, self._delta_bytes)) as file:
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
        except FileNotFoundError:
            raise _gone(name) from None
        except Unfit as error:
            raise damaged(name, f"its file {error}") from None
        except OSError as error:
            raise damaged(name, f"its file can't be read ({error.strerror})") from None
        return data, _sha256([data])


def _parts(begin: bytes, rest: BinaryIO, size: int, attempt: Attempt | None) -> Iterator[bytes]:
    """The first `size` bytes of a file in parts; `begin` is read already. What is appended meanwhile is ignored."""
    yield begin
    left = size - len(begin)
    while left > 0 and (part := rest.read(min(CHUNK, left))):
        if attempt is not None:
            attempt.moved()
        left -= len(part)
        yield part
    if attempt is not None:
        attempt.read()


def _sha256(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def _gone(name: str) -> NotFound:
    problem = f"adapter {name!r} points to an object that isn't in the registry"
    return NotFound(FIELD, problem, "import it again with `impasto adapters import`")


def _unknown(name: str, known: Sequence[str]) -> NotFound:
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

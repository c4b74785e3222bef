"""The keys that an operator gave out: a file, or a variable, holds their hashes.

A line for each key: its name, `sha256:` and the hash, its roles, and what it may take where that is bounded:

    studio sha256:9f86…0a08 roles=generate,adapters requests_per_minute=60 pixels_per_minute=50000000 concurrent=4

A key is 32 random bytes. So one round of SHA-256 is enough at rest: slow hashes exist since passwords can be guessed,
and nobody guesses 256 bits.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hmac import compare_digest
from pathlib import Path

from impasto_gateway.callers import ALLOWANCES, ROLES, Allowance, Caller
from impasto_gateway.settings import GatewaySettings

VARIABLE = "IMPASTO_KEYS"
PREFIX = "impasto_"  # so that scanners of source code find a key that was published
KEY_BYTES = 32
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_COUNT = re.compile(r"\d{1,15}")

_log = logging.getLogger(__name__)


class BadKey(ValueError):
    """A line that is no key; str() says why, and never repeats the hash."""


@dataclass(frozen=True)
class Key:
    """A key at rest: whose it is, and its SHA-256 as 64 hex digits."""

    caller: Caller
    digest: str = field(repr=False)

    @classmethod
    def of(cls, line: str) -> Key:
        """From a line. Raises BadKey."""
        name, *words = line.split()
        if not NAME.fullmatch(name):
            raise BadKey(f"{name!r} is no name: use up to 64 of A-Z a-z 0-9 . _ -, first a letter or digit")
        if not words or not _HASH.fullmatch(words[0]):
            raise BadKey(f"{name}: after the name comes sha256: and 64 hex digits; make a line with `impasto keys`")
        said: dict[str, str] = {}
        for word in words[1:]:
            key, mark, value = word.partition("=")
            if not mark or key in said or key not in ("roles", *ALLOWANCES):
                raise BadKey(f"{name}: {word!r} can't stand here; write roles=, {', '.join(ALLOWANCES)}=, each once")
            said[key] = value
        caller = Caller(name, _roles(name, said.pop("roles", ROLES[0])), _allowance(name, said))
        return cls(caller, words[0].removeprefix("sha256:"))

    def line(self) -> str:
        """The line that `of` reads back."""
        limits = (f"{name}={getattr(self.caller.limits, name)}" for name in ALLOWANCES)
        bounded = [word for word in limits if not word.endswith("=0")]
        return " ".join([self.caller.name, f"sha256:{self.digest}", f"roles={_listed(self.caller.roles)}", *bounded])


def made(caller: Caller) -> tuple[str, Key]:
    """A new key: its secret, which is shown once, and what is kept of it."""
    secret = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    return secret, Key(caller, digest(secret))


def digest(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Keys:
    """The keys that count now. They are looked up at every request, so a key can be withdrawn without a restart."""

    def __init__(self, source: Callable[[], tuple[Key, ...]] | None) -> None:
        """`source` gives the keys; None where there are none to ask for."""
        self._source = source

    @classmethod
    def of(cls, settings: GatewaySettings, environment: Mapping[str, str] = os.environ) -> Keys:
        """From the file in the settings, else from the variable IMPASTO_KEYS. Raises BadKey or OSError."""
        if settings.keys is not None:
            return cls(KeyFile(settings.keys).keys)
        if VARIABLE not in environment:
            return cls(None)
        found = tuple(read(re.split(r"[\n;]", environment[VARIABLE])))
        return cls(lambda: found)

    @property
    def are_asked_for(self) -> bool:
        """Whether callers need one."""
        return self._source is not None

    def caller(self, secret: str) -> Caller | None:
        """Whose key this is. It takes as long for a wrong key as for a right one, whichever it is."""
        assert self._source is not None
        asked, found = digest(secret), None
        for key in self._source():
            if compare_digest(key.digest, asked):
                found = key.caller
        return found


class KeyFile:
    """A file of keys, read again when it has changed.

    What can't be read lets nobody in: a broken line is skipped and logged, and without the file there are no keys.
    """

    def __init__(self, path: Path) -> None:
        """Raises BadKey or OSError: at the start, a broken file is an error."""
        self._path = path
        self._stamp = self._stamped()
        self._keys = tuple(read(path.read_text().splitlines()))

    def keys(self) -> tuple[Key, ...]:
        """The keys in the file now."""
        try:
            stamp = self._stamped()
            if stamp != self._stamp:
                self._keys = tuple(read(self._path.read_text().splitlines(), _complain))
                self._stamp = stamp  # taken before the text: a change in between is read next time
        except (OSError, ValueError) as error:
            if self._stamp is not None:
                _log.error("keys: %s can't be read, so nobody is let in: %s", self._path, error)
            self._keys, self._stamp = (), None
        return self._keys

    def _stamped(self) -> tuple[int, ...] | None:
        state = self._path.stat()
        return state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def read(lines: Iterable[str], on_bad: Callable[[str], None] | None = None) -> Iterable[Key]:
    """The keys of these lines; `#` begins a comment. Of two with one name or one hash the second is bad.

    Raises BadKey, or tells `on_bad` and skips the line.
    """
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            key = Key.of(text)
            if not seen.isdisjoint((key.caller.name, key.digest)):
                raise BadKey(f"{key.caller.name}: there are two of this name, or of this hash; leave one out")
        except BadKey as problem:
            if on_bad is None:
                raise BadKey(f"keys: line {number}: {problem}") from None
            on_bad(f"line {number}: {problem}")
            continue
        seen |= {key.caller.name, key.digest}
        yield key


def append(path: Path, key: Key) -> None:
    """Add the key to the file, which is made if it isn't there. Raises BadKey for a name that it has, or OSError."""
    held = path.read_text() if path.exists() else ""
    if any(other.caller.name == key.caller.name for other in read(held.splitlines())):
        raise BadKey(f"{key.caller.name}: {path} has a key of this name; take its line out first, or choose another")
    between = "" if not held or held.endswith("\n") else "\n"
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(f"{between}{key.line()}\n".encode())


def _roles(name: str, said: str) -> frozenset[str]:
    roles = frozenset(said.split(","))
    if not roles <= set(ROLES):
        raise BadKey(f"{name}: roles={said} has an unknown role; choose from {', '.join(ROLES)}")
    return roles


def _allowance(name: str, said: Mapping[str, str]) -> Allowance:
    bad = next((f"{key}={value}" for key, value in said.items() if not _COUNT.fullmatch(value)), None)
    if bad is not None:
        raise BadKey(f"{name}: {bad} is no whole number; pass one, or leave it out for no bound")
    return Allowance(**{key: int(value) for key, value in said.items()})


def _listed(roles: frozenset[str]) -> str:
    return ",".join(role for role in ROLES if role in roles)


def _complain(problem: str) -> None:
    _log.error("keys: %s; the line lets nobody in", problem)

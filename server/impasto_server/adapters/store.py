"""An object store, opened by its address, e.g. s3://bucket/prefix.

Credentials and endpoints are those of the environment, under the names that the stores' own tools use. obstore does the
signing, the retries and the resuming of answers that break off; what it raises becomes one of three errors here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

from impasto_server.adapters.shelf import NotNow
from impasto_server.errors import SetupError
from impasto_server.strangers import Unfit

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import ObjectStore

UNSUITABLE = ("memory", "file")  # obstore opens them, too: gone with the process, or a folder
CONNECT_S, SILENCE_S = 2.0, 5.0  # to connect, and without a byte, before a call has failed
RETRIES, RETRY_S = 2, 5.0  # after a failed call, and how long after the first one may still begin
AGAIN_S = 1.0  # between calls to a store that doesn't answer
CHUNK = 256 << 10
_log = logging.getLogger(__name__)


class Same(Exception):
    """The object is the one that the caller has."""


@dataclass(frozen=True)
class Found:
    """An object's first bytes, or all of them; `size` is that of the whole."""

    data: bytes
    e_tag: str | None
    size: int


class Store:
    """Calls to one store. They raise FileNotFoundError, NotNow, or Unfit for what is too large.

    While it doesn't answer, one call a second is made; the others fail at once with what the last one found.
    """

    def __init__(self, address: str, store: ObjectStore) -> None:
        self.address = address
        self._store = store
        self._outage = Outage(address)

    @classmethod
    def at(cls, address: str) -> Store:
        """Raises SetupError for an address that can't be one, and where obstore isn't installed. Makes no call."""
        try:
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ImportError:
            fix = "install it with pip install 'impasto[store]', or pass a folder"
            raise SetupError(f"registry: {address} needs obstore, which isn't installed; {fix}") from None
        try:
            if address.partition("://")[0] in UNSUITABLE:
                raise ValueError("no registry lies there")
            store = from_url(
                address.rstrip("/"),
                client_options={
                    "allow_http": allows_http(address, os.environ),
                    "connect_timeout": timedelta(seconds=CONNECT_S),
                    "read_timeout": timedelta(seconds=SILENCE_S),
                    "timeout": timedelta(hours=1),  # a large object may take long, as long as it comes
                },
                retry_config={
                    "max_retries": RETRIES,
                    "retry_timeout": timedelta(seconds=RETRY_S),
                    "backoff": {
                        "init_backoff": timedelta(milliseconds=50),
                        "max_backoff": timedelta(milliseconds=500),
                        "base": 2,
                    },
                },
            )
        except (BaseError, ValueError) as error:
            fix = "pass s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, https://HOST/PATH or a folder"
            raise SetupError(f"registry: {address} can't be opened ({brief(error)}); {fix}") from None
        return cls(address, store)

    @property
    def is_silent(self) -> bool:
        """Whether the last call found no answer."""
        return self._outage.why is not None

    def read(self, path: str, most: int, e_tag: str | None = None) -> Found:
        """A whole object of at most `most` bytes. Raises Same where `e_tag` is still its own."""
        with self._calling():
            got = self._get(path, e_tag)
            if got.meta["size"] > most:
                raise Unfit(f"has {got.meta['size']} bytes, more than the {most} that it can need")
            return Found(bytes(got.bytes()), got.meta["e_tag"], got.meta["size"])

    def begin(self, path: str, length: int) -> Found:
        """The first `length` bytes of an object, or all of a shorter one."""
        import obstore
        from obstore.exceptions import BaseError

        with self._calling():
            try:
                got = obstore.get(self._store, path, options={"range": (0, length)})
            except BaseError:
                found = obstore.head(self._store, path)
                if found["size"]:
                    raise
                return Found(b"", found["e_tag"], 0)  # stores refuse a range of nothing
            return Found(bytes(got.bytes()), got.meta["e_tag"], got.meta["size"])

    def stream(self, path: str) -> tuple[int, Iterator[bytes]]:
        """An object's size, and its bytes as they come. What breaks off is asked for again from there, a few times."""
        with self._calling():
            got = self._get(path, None)
        return got.meta["size"], self._parts(got)

    def names(self, folder: str, most: int) -> Mapping[str, str | None]:
        """E-tags by the names of the files in `folder`, of the first `most` of them."""
        import obstore

        with self._calling():
            found = (meta for page in obstore.list(self._store, folder) for meta in page)
            return {meta["path"].rpartition("/")[2]: meta["e_tag"] for meta in islice(found, most)}

    def suspect(self, why: str) -> None:
        """Be told that a call under way takes too long."""
        self._outage.began(why)

    def _get(self, path: str, e_tag: str | None) -> GetResult:
        import obstore
        from obstore.exceptions import NotModifiedError

        try:
            return obstore.get(self._store, path, options={"if_none_match": e_tag} if e_tag else {})
        except NotModifiedError:
            raise Same from None

    def _parts(self, got: GetResult) -> Iterator[bytes]:
        with self._calling():
            for part in got.stream(CHUNK):
                yield bytes(part)

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """Tell the outage how a call ends."""
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        self._outage.check()
        try:
            yield
        except (FileNotFoundError, Same, Unfit):
            self._outage.over()
            raise
        except (PermissionDeniedError, UnauthenticatedError) as error:
            self._outage.over()  # it answers; stores also say so of what isn't there, to whom may not list
            _log.warning("registry %s: the store refuses the server's credentials: %s", self.address, brief(error))
            raise NotNow(
                "'s store refuses this to the server's credentials; they must be allowed to read and to list"
            ) from None
        except BaseError as error:
            self._outage.began("does not answer", brief(error))
            raise NotNow("'s store does not answer") from None
        else:
            self._outage.over()


class Outage:
    """Whether a store answers: what the last call found. The log is told when that changes."""

    def __init__(self, address: str) -> None:
        self.why: str | None = None
        self._address = address
        self._next_at = 0.0
        self._since = 0.0
        self._lock = Lock()

    def check(self) -> None:
        """Raises NotNow while the store doesn't answer, but for one call in each AGAIN_S."""
        with self._lock:
            if self.why is not None:
                if monotonic() < self._next_at:
                    raise NotNow(f"'s store {self.why}")
                self._next_at = monotonic() + AGAIN_S

    def began(self, why: str, details: str = "") -> None:
        """The store doesn't answer."""
        with self._lock:
            is_new, self.why = self.why is None, why
            self._next_at = monotonic() + AGAIN_S
            if is_new:
                self._since = monotonic()
        if is_new:
            _log.warning(
                "registry %s: the store %s; cached names and adapters are used. %s", self._address, why, details
            )

    def over(self) -> None:
        """The store answers."""
        with self._lock:
            was, self.why = self.why, None
        if was is not None:
            _log.warning("registry %s: the store answers again, after %.0f s", self._address, monotonic() - self._since)


def allows_http(address: str, environment: Mapping[str, str]) -> bool:
    """Whether calls may go unencrypted: to an http:// address or endpoint that the operator named, or by AWS_ALLOW_HTTP
    and the like, which obstore reads itself only where nothing else is said.
    """
    endpoints = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "GOOGLE_ENDPOINT_URL", "AZURE_ENDPOINT")
    plain = any(environment.get(name, "").startswith("http://") for name in endpoints)
    said = any(environment.get(name, "").lower() in ("1", "true") for name in ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP"))
    return address.startswith("http://") or plain or said


def brief(error: Exception) -> str:
    """The first line of what obstore says."""
    return str(error).partition("\n")[0][:300]

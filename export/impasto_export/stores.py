"""Object stores as the commands use them: s3://bucket/prefix, gs://…, az://…, and https://…, which can only be read.

Credentials and endpoints are those of the environment, under the names that the stores' own tools use. The server has a
reader of its own, since the packages meet in files alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from impasto_export.errors import StoreError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

INSTALL = "install it with pip install 'impasto[store]'"
CHUNK = 1 << 20
UNSUITABLE = ("memory", "file")  # obstore opens them, too: what is written is gone with the process, or is a folder
WHOLE = 64 << 20  # bytes that are sent in one piece
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://.*|(?:s3|gs|az|https?)(?::|//).*")
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "GOOGLE_ENDPOINT_URL", "AZURE_ENDPOINT")


class Raced(Exception):
    """Another writer was first: what was to be replaced isn't there any more, or what was to be new is there."""


@dataclass(frozen=True)
class About:
    """What a store says of an object. `version` is what its next writer must have seen."""

    size: int
    written: datetime
    version: Mapping[str, str]

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> About:
        version = {key: meta[key] for key in ("e_tag", "version") if meta.get(key) is not None}
        return cls(meta["size"], meta["last_modified"], version)


def is_address(text: str) -> bool:
    """Whether it is a store's address, and no path."""
    return _ADDRESS.fullmatch(text) is not None


@dataclass(frozen=True)
class Store:
    """Calls to one store. They raise FileNotFoundError, and StoreError for what the store refuses or doesn't answer."""

    address: str
    store: ObjectStore = field(repr=False)  # obstore 0.12 panics at the repr of an Azure store

    @classmethod
    def at(cls, address: str) -> Store:
        """Raises StoreError for an address that can't be one, and where obstore isn't installed. Makes no call."""
        try:
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ImportError:
            raise StoreError(f"{address} needs obstore, which isn't installed; {INSTALL}, or pass a folder") from None
        try:
            if address.partition("://")[0] in UNSUITABLE:
                raise ValueError("nothing is kept there")
            store = from_url(
                address.rstrip("/"),
                client_options={
                    "allow_http": allows_http(address, os.environ),
                    "connect_timeout": timedelta(seconds=5),
                    "read_timeout": timedelta(seconds=30),
                    "timeout": timedelta(days=1),  # a large file may take long, as long as it comes
                },
                retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=60)},
            )
        except (BaseError, ValueError) as error:
            fix = "pass s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, https://HOST/PATH or a folder"
            raise StoreError(f"{address} can't be opened ({_brief(error)}); {fix}") from None
        return cls(address.rstrip("/"), store)

    @classmethod
    def anywhere(cls, place: str) -> Store:
        """The store at an address, or in a folder, which need not exist yet."""
        if is_address(place):
            return cls.at(place)
        try:
            from obstore.store import LocalStore
        except ImportError:
            raise StoreError(f"{place} is read and written by obstore, which isn't installed; {INSTALL}") from None
        return cls(place, LocalStore(prefix=Path(place).resolve(), mkdir=True))

    def read(self, path: str) -> tuple[bytes, About]:
        import obstore

        with self._calling():
            got = obstore.get(self.store, path)
            return bytes(got.bytes()), About.of(got.meta)

    def begin(self, path: str, length: int) -> tuple[bytes, int]:
        """The first bytes of an object, at most `length`, and the size of the whole."""
        import obstore
        from obstore.exceptions import BaseError

        with self._calling():
            try:
                got = obstore.get(self.store, path, options={"range": (0, length)})
            except BaseError:
                if obstore.head(self.store, path)["size"]:
                    raise
                return b"", 0  # stores refuse a range of nothing
            return bytes(got.bytes()), got.meta["size"]

    def about(self, path: str) -> About | None:
        """None for what isn't there."""
        import obstore

        with self._calling():
            try:
                return About.of(obstore.head(self.store, path))
            except FileNotFoundError:
                return None

    def stream(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """The object's bytes from `offset`, as they come; what breaks off is asked for again from there."""
        import obstore

        with self._calling():
            for part in obstore.get(self.store, path, options={"range": {"offset": offset}} if offset else {}).stream(
                CHUNK
            ):
                yield bytes(part)

    def put(self, path: str, data: bytes | Path, seen: About | None = None, new: bool = False) -> None:
        """Write an object whole. With `seen` only over that version, with `new` only where there is none.

        Raises Raced where that isn't so. What is larger than WHOLE goes in parts, and appears with the last; a store
        makes no condition for it.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        self.check_writable()
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        mode: Any = "create" if new else dict(seen.version) if seen is not None else "overwrite"
        with self._calling():
            try:
                obstore.put(self.store, path, data, mode=mode, use_multipart=size > WHOLE)
            except (AlreadyExistsError, PreconditionError):
                raise Raced from None

    def delete(self, path: str) -> None:
        import obstore

        self.check_writable()
        with self._calling():
            obstore.delete(self.store, path)

    def names(self, folder: str) -> dict[str, About]:
        """The files directly in `folder`, by name."""
        import obstore

        with self._calling():
            found = {meta["path"]: About.of(meta) for page in obstore.list(self.store, folder) for meta in page}
        places = {path.rpartition(f"{folder}/")[2]: about for path, about in found.items()}
        return {name: about for name, about in places.items() if "/" not in name}

    def check_writable(self) -> None:
        """Raises StoreError for a web server."""
        if self.address.startswith(("https://", "http://")):
            fix = "write through the store's own address, e.g. s3://BUCKET/PREFIX"
            raise StoreError(f"{self.address} can only be read, since it is a web server's; {fix}")

    @contextmanager
    def _calling(self) -> Iterator[None]:
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError) as error:
            fix = "check the credentials in the environment, and what they may do"
            raise StoreError(f"{self.address}: the store refuses this ({_brief(error)}); {fix}") from None
        except BaseError as error:
            fix = "try again, or check the address and the network"
            problem = "there is no such bucket" if "NoSuchBucket" in str(error) else "the store does not answer"
            raise StoreError(f"{self.address}: {problem} ({_brief(error)}); {fix}") from None


def allows_http(address: str, environment: Mapping[str, str]) -> bool:
    """Whether calls may go unencrypted: to an http:// address or endpoint that the user named, or by AWS_ALLOW_HTTP."""
    plain = any(environment.get(name, "").startswith("http://") for name in _ENDPOINTS)
    said = any(environment.get(name, "").lower() in ("1", "true") for name in ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP"))
    return address.startswith("http://") or plain or said


def _brief(error: Exception) -> str:
    """The first line of what obstore says."""
    return str(error).partition("\n")[0][:300]

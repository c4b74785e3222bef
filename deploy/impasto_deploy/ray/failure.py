"""Errors as values between Ray's processes: raised there, Ray would wrap each in its own, with a traceback as text."""

from __future__ import annotations

from dataclasses import dataclass

from impasto_client.errors import (
    AdapterNotFound,
    ConnectError,
    DeadlineExceeded,
    ImpastoError,
    InvalidRequest,
    ProtocolError,
    RequestError,
    ServerError,
    ServerFull,
    ServerUnavailable,
)

_PLAIN = {one.__name__: one for one in (ConnectError, DeadlineExceeded, ServerUnavailable, ServerError, ProtocolError)}
_OF_FIELDS = {one.__name__: one for one in (RequestError, InvalidRequest, AdapterNotFound)}


@dataclass(frozen=True)
class Failure:
    """An error of the client's tree, by its name, and the replica where it happened."""

    kind: str
    message: str
    replica: str
    field: str | None = None
    retry_after_s: float = 0.0

    @classmethod
    def of(cls, error: ImpastoError, replica: str) -> Failure:
        field = error.field if isinstance(error, RequestError) else None
        retry_after_s = error.retry_after_s if isinstance(error, ServerFull) else 0.0
        return cls(type(error).__name__, str(error), replica, field, retry_after_s)

    @property
    def is_loss(self) -> bool:
        """Whether the replica's server can't be reached now; another replica's may."""
        return self.kind in ("ConnectError", "ServerUnavailable")

    def error(self) -> ImpastoError:
        """The error again; ServerError for a kind that isn't known here."""
        if self.kind == "ServerFull":
            return ServerFull(self.message, self.retry_after_s)
        if self.kind in _OF_FIELDS:
            return _OF_FIELDS[self.kind](self.message, self.field)
        return _PLAIN.get(self.kind, ServerError)(self.message)

"""Errors as values between Ray's processes: raised there, Ray would wrap each in its own, with a traceback as text."""

from __future__ import annotations

from dataclasses import dataclass

from impasto_client import errors
from impasto_client.errors import ImpastoError, RequestError, ServerError, ServerFull

_KINDS: dict[str, type[ImpastoError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, ImpastoError)
}


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
        """Whether this replica's server takes no requests now; another replica's may."""
        return self.kind in ("ConnectError", "ServerDeclined", "ServerLost")

    @property
    def is_untouched(self) -> bool:
        """Whether that server hasn't even begun with the request."""
        return self.kind in ("ConnectError", "ServerDeclined")

    def error(self) -> ImpastoError:
        """The error again; ServerError for a kind that isn't known here."""
        kind = _KINDS.get(self.kind, ServerError)
        if issubclass(kind, ServerFull):
            return kind(self.message, self.retry_after_s)
        return kind(self.message, self.field) if issubclass(kind, RequestError) else kind(self.message)

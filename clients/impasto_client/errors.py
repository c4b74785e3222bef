"""Every error a caller can meet, as one tree.

ImpastoError
├── ConnectError            nothing answers at the url
├── RequestError            the request can't be served as it stands; `.field` names the input at fault
│   ├── InvalidRequest      a value is missing, malformed or out of range
│   └── AdapterNotFound     no adapter of that name is in the server's registry
├── DeadlineExceeded        the answer did not come within the client's timeout
├── ServerUnavailable       the server is starting, stopping, full, or doesn't serve the model; trying again may help
├── ServerError             the server failed while it worked on the request
└── ProtocolError           the answer is not one that this version of the client understands
"""

from __future__ import annotations


class ImpastoError(Exception):
    """Base of all of them; `str(error)` is one line that says what was wrong and, where known, what to do."""


class ConnectError(ImpastoError):
    """Nothing answers at the url."""


class RequestError(ImpastoError):
    """The request can't be served as it stands.

    `field` is the wire's name of the input at fault, e.g. "STEPS", or None when the server named none.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class InvalidRequest(RequestError):
    """A value is missing, malformed or out of range."""


class AdapterNotFound(RequestError):
    """No adapter of that name is in the server's registry."""


class DeadlineExceeded(ImpastoError):
    """The answer did not come within the client's timeout."""


class ServerUnavailable(ImpastoError):
    """The server is starting, stopping, full, or doesn't serve the model; trying again may help."""


class ServerError(ImpastoError):
    """The server failed while it worked on the request."""


class ProtocolError(ImpastoError):
    """The answer is not one that this version of the client understands."""

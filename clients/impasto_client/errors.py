"""The client's errors, one tree.

ImpastoError
├── ConnectError            nothing answers at the url, or the client is closed
├── MissingExtra            a package is needed that isn't installed
├── RequestError            the request can't be served as it is; `.field` names the input at fault
│   ├── InvalidRequest      a value is missing, malformed or out of range
│   └── AdapterNotFound     no adapter of that name is in the server's registry
├── DeadlineExceeded        the request was not finished within the timeout
├── ServerUnavailable       the server is starting, stopping, full, doesn't serve the model, or was lost before it
│   │                       answered; trying again may help
│   ├── ServerFull          it has as many requests as it takes; `.retry_after_s` says when to try again
│   ├── ServerDeclined      it starts, stops, or lacks the model or the memory; another one may take the request
│   └── ServerLost          it was lost while it had the request; with a seed, sending that again is safe
├── ServerError             the server failed while it worked on the request
├── ProtocolError           this version of the client doesn't understand the answer
└── MarkError               a picture file's marks can't be read or written
"""

from __future__ import annotations


class ImpastoError(Exception):
    """The base class; `str(error)` is one line that says what was wrong and, where known, what to do."""


class ConnectError(ImpastoError):
    """No connection could be made: nothing answers at the url, or the client is closed."""


class MissingExtra(ImpastoError):
    """A package is needed that isn't installed; the message says which, and how to get it."""


class RequestError(ImpastoError):
    """The request can't be served as it is.

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
    """The request was not finished within the timeout; the server no longer works on it."""


class ServerUnavailable(ImpastoError):
    """The server is starting, stopping, full, doesn't serve the model, or was lost before it answered; trying again may
    help."""


class ServerFull(ServerUnavailable):
    """The server has as many requests as it takes. `retry_after_s` is its estimate of when it has room, in seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServerDeclined(ServerUnavailable):
    """The server takes no requests now, or not this one: it is starting or stopping, or lacks the model or the memory.
    Another one may take it.
    """


class ServerLost(ServerUnavailable):
    """The server, or the connection to it, was lost while it had the request. Sending it again is safe: with the same
    seed it paints the same picture, and nothing else comes of it.
    """


class ServerError(ImpastoError):
    """The server failed while it worked on the request."""


class ProtocolError(ImpastoError):
    """This version of the client doesn't understand the server's answer."""


class MarkError(ImpastoError):
    """A picture file's marks can't be read or written: it is damaged, of another kind, or a text is too long."""

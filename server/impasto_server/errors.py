"""Every error that a caller can meet, as one tree.

ImpastoError            code, message
├── InvalidArgument     INVALID_ARGUMENT: the request's field, what it held, what to pass instead
├── NotFound            NOT_FOUND: no such name
├── NoAnswer            UNAVAILABLE: the registry doesn't answer, so a name in this field can't be read
├── Unavailable         UNAVAILABLE: the server is stopping, or out of memory; another one may take the request
├── Exhausted           RESOURCE_EXHAUSTED: the server is full; trying again after `retry_after_s` may help
├── DeadlineExceeded    DEADLINE_EXCEEDED: the caller's time has passed; nothing more is done
├── Cancelled           CANCELLED: nobody waits for the answer any more
└── SetupError          INTERNAL: the bundle, the registry or the engine doesn't work on this machine
"""

from __future__ import annotations

import logging
from typing import Literal

log = logging.getLogger(__name__)

Code = Literal[
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "UNAVAILABLE",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
    "CANCELLED",
    "INTERNAL",
]


SHOWN = 64
MAX_MESSAGE = 2500


class ImpastoError(Exception):
    """`str(error)` is the message that goes over the wire; `code` is its gRPC status."""

    code: Code = "INTERNAL"

    @classmethod
    def of(cls, code: Code, message: str) -> ImpastoError:
        """An error reported by another process."""
        error = cls(message)
        error.code = code
        return error


class FieldError(ImpastoError):
    """An error about one named input: `FIELD: problem; fix`."""

    def __init__(self, field: str, problem: str, fix: str) -> None:
        super().__init__(f"{field}: {problem}; {fix}")
        self.field = field
        self._said = problem, fix

    def at(self, field: str) -> FieldError:
        """The same problem in another input."""
        return type(self)(field, *self._said)


class InvalidArgument(FieldError):
    """The request can't be served as it stands."""

    code: Code = "INVALID_ARGUMENT"


class NotFound(FieldError):
    """The request names something that isn't there."""

    code: Code = "NOT_FOUND"


class NoAnswer(FieldError):
    """The request names something that can't be read now."""

    code: Code = "UNAVAILABLE"


class Unavailable(ImpastoError):
    """The server is stopping, or lacks memory."""

    code: Code = "UNAVAILABLE"


class Exhausted(ImpastoError):
    """The server has as many requests under way as it takes."""

    code: Code = "RESOURCE_EXHAUSTED"

    def __init__(self, limit: int, retry_after_s: float) -> None:
        super().__init__(f"the server is full with {limit} requests; try again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class DeadlineExceeded(ImpastoError):
    """The caller's time has passed."""

    code: Code = "DEADLINE_EXCEEDED"


class Cancelled(ImpastoError):
    """The caller cancelled, or is gone."""

    code: Code = "CANCELLED"


class SetupError(ImpastoError):
    """The fault is in this machine, bundle or registry, not in the request."""


def shown(text: str) -> str:
    """Quote foreign text in a message; a long one is cut."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")


def brief(message: str) -> str:
    """The message, cut to what gRPC always carries: 8 KiB, where a byte that isn't ASCII takes three."""
    return message.encode(errors="replace")[:MAX_MESSAGE].decode(errors="ignore")


def as_impasto_error(error: Exception) -> ImpastoError:
    """An ImpastoError unchanged; a lack of memory as UNAVAILABLE, since another server may have it; anything else as
    INTERNAL, its traceback in the log and not on the wire.
    """
    if isinstance(error, ImpastoError):
        return error
    log.error("request failed", exc_info=error)
    if isinstance(error, MemoryError):
        return Unavailable("the server has no memory for this request; send it to another one, or later")
    return ImpastoError(f"the server failed on this request: {type(error).__name__}; its log has the details")

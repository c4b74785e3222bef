"""Every error a caller can meet, as one tree.

ImpastoError            code, message
├── InvalidArgument     INVALID_ARGUMENT: the request's field, what it held, what to pass instead
├── NotFound            NOT_FOUND: a name that nothing answers to
├── Unavailable         UNAVAILABLE: the server can't take it now; trying again may help
└── SetupError          INTERNAL: the bundle, the registry or the engine can't be had on this machine
"""

from __future__ import annotations

from typing import ClassVar, Literal

Code = Literal["INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE", "INTERNAL"]


class ImpastoError(Exception):
    """`str(error)` is the message that goes over the wire; `code` is its gRPC status."""

    code: ClassVar[Code] = "INTERNAL"


class FieldError(ImpastoError):
    """An error about one named input: `FIELD: problem; fix`."""

    def __init__(self, field: str, problem: str, fix: str) -> None:
        super().__init__(f"{field}: {problem}; {fix}")
        self.field = field


class InvalidArgument(FieldError):
    """The request can't be served as it stands."""

    code: ClassVar[Code] = "INVALID_ARGUMENT"


class NotFound(FieldError):
    """The request names something that isn't there."""

    code: ClassVar[Code] = "NOT_FOUND"


class Unavailable(ImpastoError):
    """The server is stopping, or full."""

    code: ClassVar[Code] = "UNAVAILABLE"


class SetupError(ImpastoError):
    """Nothing the caller sent is wrong: this machine, bundle or registry is."""

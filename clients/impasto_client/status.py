"""What a server's gRPC status and message mean to a caller, whatever carried them."""

from __future__ import annotations

import re

from impasto_client.errors import AdapterNotFound, ImpastoError, InvalidRequest, ServerError, ServerUnavailable

# The field at fault: first in our messages, quoted in Triton's own.
_FIELD = re.compile(r"^(?:\[request id: [^\]]*\] )?(?P<ours>[A-Z]+(?:_[A-Z]+)*): |\binput '(?P<tritons>[A-Z_]+)'")


def refusal(status: str, message: str) -> ImpastoError:
    """The error for a status that the server itself answered with."""
    if status == "INVALID_ARGUMENT":
        return InvalidRequest(message, field_of(message))
    if status == "NOT_FOUND":
        return AdapterNotFound(message, field_of(message))
    if status in ("UNAVAILABLE", "RESOURCE_EXHAUSTED"):
        return ServerUnavailable(message)
    return ServerError(f"{status}: {message}")


def field_of(message: str) -> str | None:
    """The wire's name of the input that a message is about."""
    found = _FIELD.search(message)
    return (found["ours"] or found["tritons"]) if found else None

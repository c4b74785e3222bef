"""Translate a server's gRPC status and message into an error of the tree, for every transport."""

from __future__ import annotations

import re

from impasto_client.errors import (
    AdapterNotFound,
    DeadlineExceeded,
    ImpastoError,
    InvalidRequest,
    ServerDeclined,
    ServerError,
    ServerFull,
    ServerLost,
    ServerUnavailable,
)

_REQUEST_ID = r"^(?:\[request id: [^\]]*\] )?"

# The field at fault: it comes first in impasto's messages, and in quotes in Triton's.
_FIELD = re.compile(_REQUEST_ID + r"(?P<ours>[A-Z]+(?:_[A-Z]+)*): |\binput '(?P<tritons>[A-Z_]+)'")

# Triton has no codes of these names: the status is one of _CARRIERS, and the message begins with the real one.
_CARRIERS = ("UNAVAILABLE", "CANCELLED")
_REAL = re.compile(_REQUEST_ID + r"(?P<status>DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED): (?P<message>.*)", re.DOTALL)
# On a stream there is no status beside the message: it begins with it.
_SPOKEN = re.compile(
    _REQUEST_ID + r"(?P<status>INVALID_ARGUMENT|NOT_FOUND|UNAVAILABLE|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED|CANCELLED|"
    r"INTERNAL): (?P<message>.*)",
    re.DOTALL,
)
# Of UNAVAILABLE, which requests another server may take, and which had this one's process with the backbone end.
_DECLINED = re.compile(r"send (?:the request|it) to another one")
_ENDED = re.compile(r"the process that holds the backbone (?:ended|is gone|does not answer)")
_RETRY = re.compile(r"try again in (\d+(?:\.\d+)?) s\b")


def refusal(status: str, message: str) -> ImpastoError:
    """The error for a status that the server itself answered with."""
    real = _REAL.match(message) if status in _CARRIERS else None
    if real:
        return refusal(real["status"], real["message"])
    if status == "INVALID_ARGUMENT":
        return InvalidRequest(message, field_of(message))
    if status == "NOT_FOUND":
        return AdapterNotFound(message, field_of(message))
    if status == "DEADLINE_EXCEEDED":
        return DeadlineExceeded(message)
    if status == "RESOURCE_EXHAUSTED" and (retry := _RETRY.search(message)):
        return ServerFull(message, float(retry[1]))
    if status == "UNAVAILABLE" and _DECLINED.search(message):
        return ServerDeclined(message)
    if status == "UNAVAILABLE" and _ENDED.search(message):
        return ServerLost(message)
    if status in ("UNAVAILABLE", "RESOURCE_EXHAUSTED"):  # RESOURCE_EXHAUSTED without a hint comes from a proxy
        return ServerUnavailable(message)
    return ServerError(f"{status}: {message}")


def spoken(message: str) -> tuple[str, str]:
    """Status and message of an error on a stream. One without a status is Triton's own: no model saw the request."""
    found = _SPOKEN.match(message)
    if found:
        return found["status"], found["message"]
    if "unknown model" in message:
        return "NOT_FOUND", message
    return "INVALID_ARGUMENT" if "input" in message else "UNAVAILABLE", message


def field_of(message: str) -> str | None:
    """The wire's name of the input that a message is about; None if it names none."""
    found = _FIELD.search(message)
    return (found["ours"] or found["tritons"]) if found else None

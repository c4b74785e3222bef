"""Translate gRPC's errors between a client and Triton into errors of the ImpastoError tree."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc  # type: ignore[import-untyped]

from impasto_client.errors import (
    ConnectError,
    DeadlineExceeded,
    ImpastoError,
    ServerDeclined,
    ServerLost,
    ServerUnavailable,
)
from impasto_client.scoring import SCORER
from impasto_client.status import field_of, refusal

# gRPC reports a failed connection with the same status that a server uses for "not now". _NO_CONNECTION is tried first,
# since gRPC adds how the attempt ended, and that text may match _LOST.
_NO_CONNECTION = re.compile(
    r"failed to connect|connections to all backends failing|DNS resolution failed|errors resolving|"
    r"Connection refused|tcp handshaker|empty address list|before receiving SETTINGS",
    re.IGNORECASE,
)
_LOST = re.compile(
    r"Stream removed|Socket closed|Connection reset|Connection aborted|Connection timed out|Broken pipe|"
    r"Transport closed|Endpoint closing|GOAWAY|keepalive|ping timeout|Cancelling all calls",
    re.IGNORECASE,
)

_BROKEN = "Internal error from Core"  # gRPC's INTERNAL where the connection breaks while a call is being sent
_UNHEALTHY = re.compile(r"Stub process '[^']*' is not healthy")  # Triton's INTERNAL where a model's process is gone

CLOSED = "this client is closed; make a new one"


class Line:
    """The connection to the server at `url`, as far as errors need it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._closed = False

    def close(self) -> None:
        """Mark the client as closed: later errors say so."""
        self._closed = True

    @contextmanager
    def telling(self, timeout_s: float | None) -> Iterator[None]:
        """Raise gRPC's exceptions in this block as errors of the tree; the request may take `timeout_s`."""
        try:
            yield
        except (grpc.RpcError, grpc.aio.UsageError, ValueError) as error:  # a closed channel raises the latter two
            if self._closed:
                raise ConnectError(CLOSED) from None
            if not isinstance(error, grpc.RpcError):
                raise
            raise _translate(error, self._url, timeout_s) from None
        except asyncio.CancelledError:  # by the caller, or because the client was closed
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise ConnectError(CLOSED) from None
            raise

    def refusal(self, status: str, message: str) -> ImpastoError:
        """The error for a status that the server itself answered with."""
        return _refusal(status, message, self._url)


def _translate(error: Any, url: str, timeout_s: float | None) -> ImpastoError:
    """gRPC's exception as an error of the tree."""
    status, message = error.code().name, error.details() or ""
    if status == "DEADLINE_EXCEEDED":  # from gRPC's own clock; for the server's, see status.py
        return DeadlineExceeded(f"no answer from {url} within {timeout_s} s; raise timeout, or ask for less")
    if message == "Too many pings":
        fix = "let `impasto serve`, or the proxy before it, allow one every 30 s"
        return ServerUnavailable(f"the server at {url} takes this client's pings for abuse; {fix}")
    if status == "UNAVAILABLE" and _NO_CONNECTION.search(message):
        return ConnectError(f"nothing answers at {url}; start a server with `impasto serve` ({message})")
    if (status == "UNAVAILABLE" and _LOST.search(message)) or (status == "INTERNAL" and message == _BROKEN):
        fix = "the server may be restarting: send the request again"
        return ServerLost(f"the connection to {url} was lost before the answer came; {fix} ({message})")
    return _refusal(status, message, url)


def _refusal(status: str, message: str, url: str) -> ImpastoError:
    if "Server is stopping" in message:
        return ServerDeclined(f"the server at {url} is stopping; send the request to another one, or later ({message})")
    if _UNHEALTHY.search(message):
        return ServerLost(f"the server at {url} lost a process and is restarted; send the request again ({message})")
    if "has no available versions" in message:
        return ServerDeclined(f"the server at {url} is starting or stopping; try again later, or at another one")
    if "unknown model" in message and f"'{SCORER}'" in message:
        return ServerUnavailable(f"the server at {url} has no scorer; start the server with --scorer")
    if status == "NOT_FOUND" and field_of(message) is None:
        return ServerDeclined(f"the server at {url} does not serve this model: {message}")
    return refusal(status, message)

"""Headers that go out with requests, for whoever reads them on the way: a tracer, a router, a proxy.

with sending({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}):
    client.generate("a red boat at night")
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from impasto_client.errors import InvalidRequest
from impasto_client.tensor import shown

Headers = tuple[tuple[str, str], ...]

_NAME = re.compile(r"(?!grpc-)[0-9a-z_.-]+(?<!-bin)")  # gRPC keeps those that begin with grpc-; -bin means bytes
_VALUE = re.compile(r"[ -~]*")

_HEADERS: ContextVar[Headers] = ContextVar("impasto_headers", default=())


@contextmanager
def sending(headers: Mapping[str, str]) -> Iterator[None]:
    """Within it, requests carry `headers` beside those of an outer `sending`.

    It holds for this thread, or this task and those that it starts. A request takes its headers when it is sent, a
    stream when its iteration begins. Raises InvalidRequest for what gRPC can't send.
    """
    token = _HEADERS.set(_HEADERS.get() + tuple(_checked(name, value) for name, value in headers.items()))
    try:
        yield
    finally:
        _HEADERS.reset(token)


def headers() -> Headers:
    """What a request that is sent now carries; for transports."""
    return _HEADERS.get()


def _checked(name: str, value: str) -> tuple[str, str]:
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"headers: {shown(name)} is no name of a header; pass lower case, e.g. traceparent")
    if not _VALUE.fullmatch(value):
        raise InvalidRequest(f"headers: {name} has {shown(value)}; pass printable ASCII")
    return name, value

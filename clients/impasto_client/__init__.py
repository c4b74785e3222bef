"""Typed clients of an impasto server, blocking and async."""

from impasto_client.catalogue import Catalogue
from impasto_client.client import AsyncClient, Client
from impasto_client.errors import (
    AdapterNotFound,
    ConnectError,
    DeadlineExceeded,
    ImpastoError,
    InvalidRequest,
    MarkError,
    MissingExtra,
    ProtocolError,
    RequestError,
    ServerDeclined,
    ServerError,
    ServerFull,
    ServerLost,
    ServerUnavailable,
)
from impasto_client.fake import AsyncFakeTransport, FakeTransport
from impasto_client.fields import Options
from impasto_client.generation import Candidate, Generation, Progress, Timings
from impasto_client.headers import sending
from impasto_client.local import LocalTransport
from impasto_client.options import Compose, NamedGuidance, PhotoOptions, StyleContent, StyleDrop
from impasto_client.painting import Painting
from impasto_client.transport import AsyncTransport, Transport
from impasto_client.triton import AsyncGrpcTransport, GrpcTransport

__all__ = [
    "AdapterNotFound",
    "AsyncClient",
    "AsyncFakeTransport",
    "AsyncGrpcTransport",
    "AsyncTransport",
    "Candidate",
    "Catalogue",
    "Client",
    "Compose",
    "ConnectError",
    "DeadlineExceeded",
    "FakeTransport",
    "Generation",
    "GrpcTransport",
    "ImpastoError",
    "InvalidRequest",
    "LocalTransport",
    "MarkError",
    "MissingExtra",
    "NamedGuidance",
    "Options",
    "Painting",
    "PhotoOptions",
    "Progress",
    "ProtocolError",
    "RequestError",
    "ServerDeclined",
    "ServerError",
    "ServerFull",
    "ServerLost",
    "ServerUnavailable",
    "StyleContent",
    "StyleDrop",
    "Timings",
    "Transport",
    "sending",
]

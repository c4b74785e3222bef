"""The public surface: a name joins or leaves it on purpose."""

from __future__ import annotations

import impasto_client


def test_exported_members() -> None:
    assert impasto_client.__all__ == [
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


def test_every_exported_member_exists_and_is_documented() -> None:
    for name in impasto_client.__all__:
        assert getattr(impasto_client, name).__doc__, name

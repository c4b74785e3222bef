"""The endpoints: where a server listens, and which of Triton's APIs are open: inference, health, metadata and metrics.

The others need a key, which the operator gives or which is random at every start: shared memory (through which any
client could write into the server's own), model repository, model configuration, statistics, trace and logging.
"""

from __future__ import annotations

import re
import secrets
import socket
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import ip_address

from impasto_server.errors import SetupError

SHUT = ("shared-memory", "model-repository", "model-config", "statistics", "trace", "logging")  # Triton's names
KEY_HEADER = "impasto-admin-key"  # over HTTP; over gRPC "triton-grpc-protocol-" stands before it
KEY = re.compile(r"[A-Za-z0-9_-]{16,}")
KEEPALIVE_S, ACKNOWLEDGE_S = 20, 10
SOONEST_PING_S = 5  # a client that pings more often is disconnected


@dataclass(frozen=True)
class Ports:
    """The endpoints' ports on one host; http is None where it is off."""

    host: str
    grpc: int
    metrics: int
    http: int | None = None

    @classmethod
    def choose(cls, host: str, grpc: int, http: bool = False) -> Ports:
        """gRPC on `grpc`, HTTP one below, metrics one above, as Triton has it; 0 picks free ones. Raises SetupError."""
        least, most = 2 if http else 1, (1 << 16) - 2
        if grpc and not least <= grpc <= most:
            raise SetupError(f"port: {grpc} leaves no room for the others; pass {least} to {most}, or 0 for free ones")
        with ExitStack() as held:
            wanted = [0, 0, 0] if grpc == 0 else [grpc, grpc + 1, grpc - 1]
            found = [_free_port(held, host, port) for port in (wanted if http else wanted[:2])]
        return cls(host, *found)


@dataclass(frozen=True)
class Endpoints:
    """The ports, the key to the closed APIs, and how soon a client that is gone is noticed.

    keepalive_s is how long a connection may be silent before the client is pinged.
    """

    ports: Ports
    admin_key: str = field(default_factory=lambda: secrets.token_hex(16))
    keepalive_s: int = KEEPALIVE_S

    def __post_init__(self) -> None:
        if not KEY.fullmatch(self.admin_key):
            raise SetupError("admin_key: it is too short or has other characters; pass 16 or more of A-Z a-z 0-9 - _")

    def options(self) -> list[str]:
        """tritonserver's options."""
        ports, shut = self.ports, f"{','.join(SHUT)}:{KEY_HEADER}={self.admin_key}"
        return [
            f"--grpc-address={ports.host}",
            f"--grpc-port={ports.grpc}",
            f"--grpc-restricted-protocol={shut}",
            *self._keepalive(),
            "--grpc-infer-allocation-pool-size=0",  # a pool would keep the memory of the largest requests for ever
            f"--metrics-address={ports.host}",
            f"--metrics-port={ports.metrics}",
            *self._http(shut),
            "--allow-sagemaker=false",
            "--allow-vertex-ai=false",  # an environment variable could turn it on
        ]

    def _keepalive(self) -> list[str]:
        return [
            f"--grpc-keepalive-time={self.keepalive_s * 1000}",
            f"--grpc-keepalive-timeout={min(self.keepalive_s, ACKNOWLEDGE_S) * 1000}",
            "--grpc-keepalive-permit-without-calls=1",
            "--grpc-http2-max-pings-without-data=0",
            f"--grpc-http2-min-recv-ping-interval-without-data={SOONEST_PING_S * 1000}",
        ]

    def _http(self, shut: str) -> list[str]:
        if self.ports.http is None:
            return ["--allow-http=false"]
        return [
            f"--http-address={self.ports.host}",
            f"--http-port={self.ports.http}",
            f"--http-restricted-api={shut}",
        ]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _free_port(held: ExitStack, host: str, port: int) -> int:
    """`port`, or a free one for 0; reserved until `held` closes, so that the next call can't pick it too."""
    listener = held.enter_context(socket.socket())
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise SetupError(f"port: {host}:{port} can't be bound ({error.strerror}); pass another --port, or 0") from None
    return int(listener.getsockname()[1])

"""What an operator decides once, before a gateway starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """Bounds of one request, and of all bodies at once. They hold before anything is decoded."""

    body_bytes: int = 32 << 20
    held_bytes: int = 512 << 20  # of all bodies under way together, but for uploads, which go to the disk
    field_bytes: int = 64 << 10  # of one text field
    fields: int = 128
    prompt_bytes: int = 8192
    picture_pixels: int = 24_000_000
    adapters: int = 8
    adapter_bytes: int = 1 << 30  # of an uploaded file
    body_s: float = 60.0  # seconds in which a body must have arrived
    timeout_s: float = 300.0  # seconds that a picture may take


@dataclass(frozen=True)
class GatewaySettings:
    """Everything that the gateway is started with.

    `urls` are host:port of gRPC endpoints. Without `keys` everybody may generate and change adapters: then `host` must
    be loopback. `registry` is where uploaded adapters are imported, a folder or an object store's address, for one of
    `bundles`, folders by the names that the servers give them; without either, uploads are refused. `origins` may call
    from other pages (CORS). `certificate` and `private_key` sign pictures (C2PA). `metrics_urls` are Triton's.
    """

    urls: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8080
    keys: Path | None = None
    registry: Path | str | None = None
    bundles: Mapping[str, Path] = field(default_factory=dict)
    origins: tuple[str, ...] = ()
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    proxies: tuple[str, ...] = ()  # addresses whose x-forwarded-for counts
    metadata: bool = True
    certificate: Path | None = None
    private_key: Path | None = None
    check: str | None = None  # module:attribute of a Check (checks.py)
    log_prompts: bool = False
    traces: str | None = None  # OTLP/HTTP endpoint
    metrics_urls: tuple[str, ...] = ()
    grace_s: float = 30.0
    limits: Limits = Limits()

"""Triton's traces (OpenTelemetry): a collector gets spans of requests that belong to a trace already."""

from __future__ import annotations

from urllib.parse import urlsplit

from impasto_server.errors import SetupError

PATH = "/v1/traces"  # OTLP's, where a URL has none
SERVICE = "impasto"


def tracing(url: str) -> list[str]:
    """tritonserver's options. Raises SetupError.

    At rate 0 Triton traces what comes with a `traceparent`, and nothing else: its caller decides what is sampled.
    """
    settings = ["mode=opentelemetry", "level=TIMESTAMPS", "rate=0"]
    collector = [f"opentelemetry,url={endpoint_of(url)}", f"opentelemetry,resource=service.name={SERVICE}"]
    return [f"--trace-config={one}" for one in (*settings, *collector)]


def endpoint_of(url: str) -> str:
    """Where spans are posted: `url` itself if it has a path, else OTLP's path there. Raises SetupError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or "," in url:
        raise SetupError(f"traces: {url!r} is no URL of a collector; pass one like http://localhost:4318")
    return url if parts.path.strip("/") else f"{url.rstrip('/')}{PATH}"

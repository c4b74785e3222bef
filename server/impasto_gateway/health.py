"""Is the gateway alive, is it ready for requests, and its metrics."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from impasto_gateway.errors import SERVER, Refusal
from impasto_gateway.parts import parts_of

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus's text format


async def alive(request: Request) -> Response:
    """GET /health: 200 as long as the process answers."""
    return JSONResponse({"status": "alive"})


async def ready(request: Request) -> Response:
    """GET /ready: 200 if a picture would be painted now; 503 while draining, and when no server is ready."""
    parts = parts_of(request)
    if parts.drain.begun:
        raise _not_ready("the gateway is stopping; send requests to another one")
    if not await parts.upstream.ready():
        raise _not_ready("no server behind the gateway is ready; it starts, stops or is gone: try again later")
    return JSONResponse({"status": "ready"})


async def metrics(request: Request) -> Response:
    """GET /metrics: the gateway's own and its servers', in Prometheus's text format."""
    return Response(await parts_of(request).telemetry.metrics_page(), media_type=METRICS_TYPE)


def _not_ready(message: str) -> Refusal:
    return Refusal(503, message, "unavailable", kind=SERVER, again=True, retry_after_s=1.0)

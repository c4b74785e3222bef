"""The gateway's ASGI app: its routes and its middlewares, on one screen.

A request passes the middlewares, outermost first: telemetry, CORS, refusals, crowded, cutting, keys, rates, bodies.
Then its route's handler answers, or raises a Refusal. What handlers share is in Parts (parts.py).
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from impasto_gateway import adapters, health, images, models, openapi, page, scoring, verify
from impasto_gateway.answers import HANDLERS, RefusalsMiddleware
from impasto_gateway.bodies import BodiesMiddleware
from impasto_gateway.connections import CrowdedMiddleware
from impasto_gateway.cutting import CuttingMiddleware
from impasto_gateway.drain import Drain
from impasto_gateway.keys import KeysMiddleware
from impasto_gateway.parts import Parts
from impasto_gateway.rates import RatesMiddleware
from impasto_gateway.settings import GatewaySettings
from impasto_gateway.telemetry import TelemetryMiddleware
from impasto_gateway.upstream import Upstream

# What a page of another origin may read of an answer.
EXPOSED = ("x-request-id", "x-should-retry", "retry-after", images.REPLAYS)


def routes() -> list[BaseRoute]:
    """All endpoints; openapi.py describes them."""
    return [
        Route("/v1/images/generations", images.generations, methods=["POST"]),
        Route("/v1/images/edits", images.edits, methods=["POST"]),
        Route("/v1/models", models.listed, methods=["GET"]),
        Route("/v1/models/{model}", models.one, methods=["GET"]),
        Route("/v1/adapters", adapters.listed, methods=["GET"]),
        Route("/v1/adapters/{name}/preview", adapters.preview, methods=["GET"]),
        Route("/v1/adapters/{name}", adapters.one, methods=["GET", "PUT", "DELETE"]),
        Route("/v1/score", scoring.score, methods=["POST"]),
        Route("/v1/verify", verify.verify, methods=["POST"]),
        Route("/health", health.alive, methods=["GET"]),
        Route("/ready", health.ready, methods=["GET"]),
        Route("/metrics", health.metrics, methods=["GET"]),
        Route("/openapi.json", openapi.document, methods=["GET"]),
        *page.routes(),
    ]


def create_app(settings: GatewaySettings, upstream: Upstream | None = None, drain: Drain | None = None) -> ASGIApp:
    """The app. `upstream` replaces the servers at settings.urls, e.g. by a fake. `drain` stops it in order."""
    drain = drain or Drain()
    parts = Parts.of(settings, upstream or Upstream.of(settings.urls, settings.metrics_urls), drain)
    inner = Starlette(routes=(known := routes()), exception_handlers=HANDLERS, lifespan=parts.lifespan)
    inner.state.parts = parts
    app: ASGIApp = BodiesMiddleware(inner, settings.limits)
    app = RatesMiddleware(app, parts.rates)
    app = KeysMiddleware(app, parts.keys, settings.origins)
    app = RefusalsMiddleware(CrowdedMiddleware(CuttingMiddleware(app, drain)))
    if settings.origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.origins,
            allow_methods=("GET", "POST", "PUT", "DELETE"),
            allow_headers=("*",),
            expose_headers=EXPOSED,
        )
    return TelemetryMiddleware(app, parts.telemetry, known)

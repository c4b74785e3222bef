"""The gateway as Ray Serve runs it: impasto_gateway's app, whose only server is all replicas together."""

from __future__ import annotations

import time
from typing import Any

from ray import serve
from starlette.types import ASGIApp

from impasto_client import AsyncClient
from impasto_deploy.ray.transport import HandleTransport
from impasto_gateway.app import create_app
from impasto_gateway.server import FRESH_S, Server
from impasto_gateway.settings import GatewaySettings
from impasto_gateway.upstream import Upstream


class Fleet(Server):
    """All replicas together, as the gateway's only server. One that is lost doesn't make the others unready."""

    def declined(self) -> None:
        """Ask at once, and not only after a while, whether there is a replica that would paint."""
        self.asked_at = time.monotonic() - 2 * FRESH_S


def app_over(replicas: Any, settings: GatewaySettings) -> ASGIApp:
    """The app in front of a deployment handle."""
    client = AsyncClient(transport=HandleTransport(replicas), timeout=settings.limits.timeout_s)
    return create_app(settings, Upstream([Fleet("ray", lambda: client)]))


@serve.ingress()
class Gateway:
    """Ray makes one in a process of its own, with a handle of the replicas."""

    def __init__(self, replicas: Any, settings: GatewaySettings) -> None:
        self._app = app_over(replicas, settings)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """What Ray asks for once the process is there."""
        return self._app

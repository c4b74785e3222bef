"""Stand-ins for modules that other branches bring: at the merge, delete this file and import the real ones.

app.py:   bodies.BodiesMiddleware, keys.KeysMiddleware, telemetry.TelemetryMiddleware;
          adapters, page, scoring, verify
parts.py: keys.Keys, rates.Rates, idempotency.Answers, telemetry.{Record,Telemetry}, checks.{Check,check_of},
          signing.Signer
images.py: keys.need, bodies.parsed_json, bodies.parsed_form, impasto_client.marks
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from impasto_gateway.errors import Refusal
from impasto_gateway.settings import GatewaySettings


@dataclass
class Record:
    id: str
    route: str = ""
    key: str = "-"
    bundle: str = "-"
    adapters: tuple[str, ...] = ()
    lanes: int = 0
    queue_ms: float = 0
    first_step_ms: float = 0
    total_ms: float = 0
    steps: int = 0
    outcome: str = ""
    status: int = 0
    prompt: str = ""


class Telemetry:
    @classmethod
    def of(cls, settings: GatewaySettings) -> Telemetry:
        return cls()

    def metrics_text(self) -> bytes:
        return b""

    def close(self) -> None:
        pass


class TelemetryMiddleware:
    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        record = Record(uuid.uuid4().hex)
        scope.setdefault("state", {})["record"] = record

        async def told(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", record.id.encode())]
            await send(message)

        await self._app(scope, receive, told)


class Check(Protocol):
    def __call__(self, rgb: NDArray[np.uint8], words: str) -> Any: ...


def check_of(settings: GatewaySettings) -> Check | None:
    return None


class Signer:
    @classmethod
    def of(cls, settings: GatewaySettings) -> Signer | None:
        return None

    def sign(self, data: bytes, fmt: str, ingredient: bytes | None) -> bytes:
        return data


async def _later(request: Request) -> Response:
    raise Refusal(501, "not merged yet", "not_implemented")


@dataclass(frozen=True)
class _Handlers:
    verify: Any = field(default=_later)

    def routes(self) -> list[BaseRoute]:
        return []


page = verify = _Handlers()

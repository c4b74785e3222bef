"""Stand-ins for modules that other branches bring: at the merge, delete this file and import the real ones.

app.py:   bodies.BodiesMiddleware, keys.KeysMiddleware, telemetry.TelemetryMiddleware;
          adapters, page, scoring, verify
parts.py: keys.Keys, rates.Rates, idempotency.Answers, telemetry.{Record,Telemetry}, checks.{Check,check_of},
          signing.Signer
images.py: keys.need, bodies.parsed_json, bodies.parsed_form, impasto_client.marks
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from impasto_gateway.errors import Refusal
from impasto_gateway.settings import GatewaySettings, Limits


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


@dataclass(frozen=True)
class Caller:
    name: str
    roles: frozenset[str]


class Keys:
    @classmethod
    def of(cls, settings: GatewaySettings) -> Keys:
        return cls()


class KeysMiddleware:
    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["caller"] = Caller("-", frozenset(("generate", "adapters")))
        await self._app(scope, receive, send)


def need(request: Request, role: str) -> Caller:
    caller: Caller = request.state.caller
    return caller


class Rates:
    @asynccontextmanager
    async def admitted(self, caller: Caller, pixels: int) -> AsyncIterator[None]:
        yield


class Answers:
    async def once(
        self, caller: Caller, key: str, body_digest: str, work: Callable[[], Awaitable[Response]]
    ) -> Response:
        return await work()


class BodiesMiddleware:
    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def parsed_json(raw: bytes, limits: Limits) -> dict[str, Any]:
    try:
        said = json.loads(raw)
    except ValueError:
        raise Refusal(400, "the body is not JSON", "invalid_json") from None
    if not isinstance(said, dict):
        raise Refusal(400, "the body is not an object", "invalid_json")
    return said


@dataclass(frozen=True)
class Form:
    fields: Mapping[str, str]
    files: Mapping[str, Sequence[bytes]]


async def parsed_form(request: Request, limits: Limits) -> Form:
    fields, files = dict[str, str](), dict[str, list[bytes]]()
    async with request.form(max_files=16, max_fields=limits.fields) as form:
        for name, value in form.multi_items():
            if isinstance(value, str):
                fields[name] = value
            else:
                files.setdefault(name, []).append(await value.read())
    return Form(fields, files)


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
    listed: Any = field(default=_later)
    preview: Any = field(default=_later)
    put: Any = field(default=_later)
    delete: Any = field(default=_later)
    score: Any = field(default=_later)
    verify: Any = field(default=_later)

    def routes(self) -> list[BaseRoute]:
        return []


adapters = page = scoring = verify = _Handlers()

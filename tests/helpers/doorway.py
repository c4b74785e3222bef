"""A gateway's app without a network: its caller is httpx, the server behind it is a fake."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx

from impasto_client import AsyncClient, AsyncFakeTransport, Catalogue, FakeTransport
from impasto_client.catalogue import Adapter
from impasto_client.example import EXAMPLE
from impasto_gateway.app import create_app
from impasto_gateway.callers import Allowance, Caller
from impasto_gateway.keyring import append, made
from impasto_gateway.settings import GatewaySettings
from impasto_gateway.upstream import Upstream
from tests.helpers.lifespans import alive

SETTINGS = GatewaySettings(urls=())


@asynccontextmanager
async def calling(
    settings: GatewaySettings = SETTINGS, fake: FakeTransport | None = None, key: str | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A caller, with this key if there is one."""
    upstream = Upstream.over(AsyncClient(transport=AsyncFakeTransport(fake)))
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    app = create_app(settings, upstream)
    async with (
        alive(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", headers=headers) as caller,
    ):
        yield caller


def key_in(file: Path, name: str, *roles: str, limits: Allowance | None = None) -> str:
    """A new key's secret; the file gets its line."""
    secret, key = made(Caller(name, frozenset(roles or ("generate",)), limits or Allowance()))
    append(file, key)
    return secret


def adapter(name: str, kind: str = "lora", trigger: str = "", prompt: str = "", fits: bool = True) -> Adapter:
    """One that a catalogue may list."""
    digest = name.encode().hex().ljust(64, "0")[:64]
    return Adapter(name, digest, kind, "fake", trigger, prompt, 4, 0, ("base",), ("fake",) if fits else ())


def having(*adapters: Adapter) -> FakeTransport:
    """A server with these adapters."""
    return FakeTransport(catalogue=with_adapters(*adapters))


def with_adapters(*adapters: Adapter) -> Catalogue:
    return replace(EXAMPLE, adapters=adapters)


def refused(answer: httpx.Response) -> tuple[int, str, str | None]:
    """The refusal's status, code and param."""
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]

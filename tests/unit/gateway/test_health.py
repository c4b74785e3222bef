"""/health, /ready and /metrics."""

from __future__ import annotations

import asyncio

from impasto_client import AsyncClient, AsyncFakeTransport
from impasto_gateway.app import create_app
from impasto_gateway.drain import Drain
from impasto_gateway.upstream import Upstream
from tests.helpers.gateways import SETTINGS, calling, fake, get


def test_the_gateway_is_alive_without_a_server() -> None:
    assert get("/health", fake(ready=False)).json() == {"status": "alive"}


def test_it_is_ready_when_a_server_is() -> None:
    assert get("/ready", fake(ready=False), fake()).status_code == 200


def test_it_is_not_ready_when_no_server_is() -> None:
    answer = get("/ready", fake(ready=False))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "no server behind the gateway is ready" in answer.json()["error"]["message"]


def test_it_is_not_ready_once_it_drains() -> None:
    async def statuses() -> list[int]:
        drain = Drain()
        upstream = Upstream.over(AsyncClient(transport=AsyncFakeTransport(fake())))
        async with calling(create_app(SETTINGS, upstream, drain)) as client:
            before = await client.get("/ready")
            drain.begin()
            return [before.status_code, (await client.get("/ready")).status_code]

    assert asyncio.run(statuses()) == [200, 503]


def test_metrics_are_prometheus_text() -> None:
    answer = get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE" in answer.text

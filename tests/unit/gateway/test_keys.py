"""Who may come in: with a key, by its roles; without keys, from this machine alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from impasto_gateway.keyring import Keys
from impasto_gateway.keys import KeysMiddleware
from impasto_gateway.settings import GatewaySettings
from tests.helpers.doorway import SETTINGS, calling, key_in, refused

ADAPTERS = "/v1/adapters"


@pytest.fixture
def settings(tmp_path: Path) -> GatewaySettings:
    return replace(SETTINGS, keys=tmp_path / "keys")


def file_of(settings: GatewaySettings) -> Path:
    assert settings.keys is not None
    return settings.keys


def got(settings: GatewaySettings, path: str, key: str | None = None, **headers: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with calling(settings, key=key) as caller:
            return await caller.get(path, headers=headers)

    return asyncio.run(ask())


def test_a_key_lets_in(settings: GatewaySettings) -> None:
    key = key_in(file_of(settings), "studio")
    assert got(settings, ADAPTERS, key).status_code == 200
    assert got(settings, ADAPTERS, authorization=f"bearer {key}").status_code == 200


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic c3R1ZGlvOng=", "wrong", f"Bearer {'x' * 10_000}"]
)
def test_without_the_key(header: str | None, settings: GatewaySettings) -> None:
    key_in(file_of(settings), "studio")
    answer = got(settings, ADAPTERS, **({} if header is None else {"authorization": header}))
    assert refused(answer) == (401, "invalid_api_key", None)
    assert answer.json()["error"]["type"] == "authentication_error"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-should-retry"] == "false"


def test_who_has_no_key_is_counted_where_they_knocked(settings: GatewaySettings) -> None:
    key_in(file_of(settings), "studio")

    async def ask() -> str:
        async with calling(settings) as caller:
            for path in ("/v1/adapters/ink/preview", "/v1/adapters/ink", "/somewhere"):
                assert (await caller.get(path)).status_code == 401
            key = key_in(file_of(settings), "watcher", "metrics")
            return (await caller.get("/metrics", headers={"authorization": f"Bearer {key}"})).text

    counted = asyncio.run(ask())
    for route in ("/v1/adapters/{name}/preview", "/v1/adapters/{name}", "other"):
        assert f'impasto_http_requests_total{{route="{route}",status="401"}} 1' in counted


def test_two_keys_at_once(settings: GatewaySettings) -> None:
    key = key_in(file_of(settings), "studio")

    async def ask() -> httpx.Response:
        async with calling(settings) as caller:
            return await caller.get(ADAPTERS, headers=[("authorization", f"Bearer {key}")] * 2)

    assert refused(asyncio.run(ask()))[0] == 401


@pytest.mark.parametrize("path", ["/health", "/ready", "/openapi.json", "/"])
def test_what_is_open_to_all(path: str, settings: GatewaySettings) -> None:
    key_in(file_of(settings), "studio")
    assert got(settings, path).status_code == 200


@pytest.mark.parametrize("path", ["/nowhere", "/%2Fhealth", "/health/", "/static", "/v1/models"])
def test_what_is_not(path: str, settings: GatewaySettings) -> None:
    key_in(file_of(settings), "studio")
    assert got(settings, path).status_code == 401


def test_a_key_that_may_only_paint_changes_no_adapters(settings: GatewaySettings) -> None:
    painter, keeper = key_in(file_of(settings), "painter"), key_in(file_of(settings), "keeper", "adapters")

    async def ask(key: str, method: str, path: str) -> httpx.Response:
        async with calling(settings, key=key) as caller:
            return await caller.request(method, path, json={"prompt": "a red boat"})

    for method in ("PUT", "DELETE"):
        answer = asyncio.run(ask(painter, method, "/v1/adapters/ink"))
        assert refused(answer) == (403, "role_missing", None)
        assert "'painter' has the roles generate" in answer.json()["error"]["message"]
        assert refused(asyncio.run(ask(keeper, method, "/v1/adapters/ink")))[0] == 501  # there is no registry
    assert refused(asyncio.run(ask(keeper, "POST", "/v1/images/generations")))[0] == 403
    assert asyncio.run(ask(painter, "POST", "/v1/images/generations")).status_code == 200


def metrics(keys: Keys, client: tuple[str, int], are_open: bool = False, /, **headers: str) -> int:
    """The status of /metrics for a caller from this address."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(Request(scope).state.caller.name)(scope, receive, send)

    async def ask() -> int:
        transport = httpx.ASGITransport(KeysMiddleware(app, keys, open_metrics=are_open), client=client)
        async with httpx.AsyncClient(transport=transport, base_url="http://impasto.example") as caller:
            try:
                return (await caller.get("/metrics", headers=headers)).status_code
            except Exception as refusal:
                return int(getattr(refusal, "status"))  # noqa: B009

    return asyncio.run(ask())


def test_metrics_are_for_neighbours_and_those_with_the_role(settings: GatewaySettings) -> None:
    file = file_of(settings)
    reader, painter = key_in(file, "reader", "metrics"), key_in(file, "painter")
    keys = Keys.of(settings, {})
    near, far = ("127.0.0.1", 1), ("192.0.2.7", 1)
    assert metrics(keys, near) == 200
    assert metrics(keys, ("::1", 1)) == 200
    assert metrics(keys, far) == 401
    assert metrics(keys, far, authorization=f"Bearer {painter}") == 403
    assert metrics(keys, far, authorization=f"Bearer {reader}") == 200


def test_metrics_may_be_open_and_nothing_else_is(settings: GatewaySettings) -> None:
    key_in(file_of(settings), "studio")
    assert metrics(Keys.of(settings, {}), ("192.0.2.7", 1), True) == 200
    asked = replace(settings, open_metrics=True)
    assert got(asked, "/metrics").status_code == 200
    assert got(asked, ADAPTERS).status_code == 401


def test_who_comes_through_a_proxy_on_this_machine_is_no_neighbour(settings: GatewaySettings) -> None:
    key_in(file_of(settings), "studio")
    keys = Keys.of(settings, {})
    assert metrics(keys, ("127.0.0.1", 1), **{"x-forwarded-for": "192.0.2.7"}) == 401
    assert metrics(keys, ("127.0.0.1", 1), forwarded="for=192.0.2.7") == 401


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080"])
def test_without_keys_this_machine_may_do_everything(host: str) -> None:
    assert got(SETTINGS, ADAPTERS, host=host).status_code == 200
    assert got(SETTINGS, ADAPTERS, host=host, origin=f"http://{host}").status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "192.0.2.7:8080",
        "127.0.0.1.nip.io",
        "evil@127.0.0.1",
        "127.0.0.1/evil",
        "127.0.0.1?evil",
        "127.0.0.1:evil",
        "127.0.0.1:",
        "127.0.0.1 ",
        "[127.0.0.1",
        "@",
        "[",
        "",
    ],
)
def test_without_keys_a_name_that_leads_here_is_refused(host: str) -> None:
    assert refused(got(SETTINGS, ADAPTERS, host=host)) == (403, "foreign_host", None)


@pytest.mark.parametrize(
    "origin", ["localhost", "http://evil.example", "null", "http://localhost:9999", "https://[", ""]
)
def test_without_keys_other_pages_are_refused(origin: str) -> None:
    assert refused(got(SETTINGS, ADAPTERS, origin=origin)) == (403, "foreign_origin", None)


def test_without_keys_a_page_that_was_let_in() -> None:
    settings = replace(SETTINGS, origins=("https://studio.example",))
    answer = got(settings, ADAPTERS, origin="https://studio.example")
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://studio.example"
    assert got(settings, ADAPTERS, origin="https://evil.example").status_code == 403

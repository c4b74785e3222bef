"""A gateway that stops: what is done within the grace is answered, and what isn't is told so, plain or streamed."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from threading import Thread
from typing import Any

import httpx
import pytest

from impasto_client import AsyncClient
from impasto_gateway import serving
from impasto_gateway.app import create_app
from impasto_gateway.drain import CutOff, Drain
from impasto_gateway.serving import Gate
from impasto_gateway.upstream import Upstream
from tests.helpers.gateways import SETTINGS, HeldTransport
from tests.helpers.waiting import PATIENCE_S, eventually


@contextmanager
def stopping(held: HeldTransport, monkeypatch: pytest.MonkeyPatch, grace_s: float) -> Iterator[tuple[Gate, str]]:
    """A gateway over the transport, and its address; it must have stopped at the end."""

    def made(settings: Any, drain: Drain) -> Any:
        return create_app(settings, Upstream.over(AsyncClient(transport=held)), drain)

    monkeypatch.setattr(serving, "create_app", made)
    gate = serving.gate(replace(SETTINGS, port=0, grace_s=grace_s))
    thread = Thread(target=gate.run)
    thread.start()
    eventually(lambda: gate.started)
    yield gate, f"http://127.0.0.1:{gate.servers[0].sockets[0].getsockname()[1]}"
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def asked(url: str, **said: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/images/generations", json={"prompt": "a boat", **said}, timeout=PATIENCE_S)


def stopped(held: HeldTransport, monkeypatch: pytest.MonkeyPatch, grace_s: float, **said: Any) -> httpx.Response:
    """The answer to a request that is under way when the gateway is told to stop."""
    with stopping(held, monkeypatch, grace_s) as (gate, url), ThreadPoolExecutor() as pool:
        answer = pool.submit(asked, url, **said)
        assert held.begun.wait(PATIENCE_S)
        gate.handle_exit(signal.SIGTERM, None)
        if grace_s:
            held.let_go.set()
        found = answer.result(PATIENCE_S)
    assert gate.cut_off == (0 if grace_s else 1)
    return found


def logged(text: str) -> dict[str, Any]:
    """The one line of the gateway's log."""
    (line,) = text.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.fixture
def held() -> HeldTransport:
    return HeldTransport()


def test_what_is_not_done_is_told_so(
    held: HeldTransport,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = stopped(held, monkeypatch, 0)
    assert held.left.is_set()
    assert (answer.status_code, answer.headers["x-should-retry"]) == (503, "true")
    assert (answer.json()["error"]["code"], answer.json()["error"]["type"]) == ("unavailable", "server_error")
    line = logged(capfd.readouterr().out)
    assert (line["status"], line["route"], line["id"]) == (
        503,
        "/v1/images/generations",
        answer.headers["x-request-id"],
    )
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


def test_a_stream_that_is_not_done_ends_with_an_error(
    held: HeldTransport,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = stopped(held, monkeypatch, 0, stream=True, progress=True)
    assert held.left.is_set()
    *_, last = answer.text.strip().split("\n\n")
    kind, data = last.split("\n")
    assert kind == "event: error"
    assert json.loads(data.removeprefix("data: "))["status"] == 503
    assert logged(capfd.readouterr().out)["status"] == 503
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


def test_what_is_done_in_time_is_answered(held: HeldTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stopped(held, monkeypatch, PATIENCE_S).status_code == 200


def test_what_begins_after_the_end_is_cut_off_and_a_timeout_stays_one() -> None:
    async def told() -> None:
        drain = Drain()
        with pytest.raises(TimeoutError):
            async with drain.bounded():
                raise TimeoutError
        drain.cut()
        with pytest.raises(CutOff):
            async with drain.bounded():
                await asyncio.sleep(PATIENCE_S)

    asyncio.run(told())

"""Connections on a real socket: what dawdles is closed, what works is left alone."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from time import monotonic, sleep
from typing import Any

import httpx
import pytest
import uvicorn

from impasto_gateway import connections
from impasto_gateway.app import create_app
from impasto_gateway.connections import PatientProtocol
from tests.helpers.doorway import SETTINGS

PATIENCE_S = 60.0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """A gateway that waits for a request's beginning half a second, with nothing behind it."""
    monkeypatch.setattr(connections, "BEGIN_S", 0.5)
    with listening() as address:
        yield address


@contextmanager
def listening(**said: Any) -> Iterator[tuple[str, int]]:
    config = uvicorn.Config(create_app(SETTINGS), port=0, http=PatientProtocol, ws="none", log_config=None, **said)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        until(lambda: running.started)
        yield running.servers[0].sockets[0].getsockname()
    finally:
        running.should_exit = True
        thread.join(PATIENCE_S)


def until(done: object) -> None:
    deadline = monotonic() + PATIENCE_S
    while not done():  # type: ignore[operator]
        assert monotonic() < deadline
        sleep(0.01)


def ended(line: socket.socket, drop: bytes = b"") -> bytes:
    """What comes until the server closes the line, while `drop` is sent again and again."""
    line.settimeout(0.1)
    got, deadline = b"", monotonic() + PATIENCE_S
    while monotonic() < deadline:
        try:
            if drop:
                line.sendall(drop)
            more = line.recv(1 << 16)
        except TimeoutError:
            continue
        except OSError:
            return got
        if not more:
            return got
        got += more
    raise AssertionError("the server keeps the line open")


def test_a_line_that_says_nothing(server: tuple[str, int]) -> None:
    with closing(socket.create_connection(server)) as line:
        assert ended(line) == b""


def test_headers_that_come_drop_by_drop(server: tuple[str, int]) -> None:
    with closing(socket.create_connection(server)) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-slow: ")
        assert ended(line, b"x") == b""


def test_the_second_requests_headers_that_come_drop_by_drop(server: tuple[str, int]) -> None:
    with closing(socket.create_connection(server)) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /health HTTP/1.1\r\nx-slow: ")
        assert ended(line, b"x").count(b"HTTP/1.1 200") == 1


def test_a_body_that_goes_on_after_its_answer(server: tuple[str, int]) -> None:
    with closing(socket.create_connection(server)) as line:
        head = b"POST /v1/images/generations HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n"
        line.sendall(head)
        assert ended(line, b"x" * 100).startswith(b"HTTP/1.1 413")


def test_a_large_body_gets_its_answer(server: tuple[str, int]) -> None:
    """Whole, though the body is still being sent: a line that is closed too soon would take it along."""
    url = "http://{}:{}/v1/images/generations".format(*server)
    for _ in range(5):
        answer = httpx.post(url, content=bytes(40 << 20), headers={"host": "localhost"}, timeout=PATIENCE_S)
        assert answer.json()["error"]["code"] == "body_too_large"


def test_a_line_that_is_used_stays_open(server: tuple[str, int]) -> None:
    url = "http://{}:{}/health".format(*server)
    with httpx.Client(headers={"host": "localhost"}, timeout=PATIENCE_S) as caller:
        ports = set()
        for _ in range(8):
            answer = caller.get(url)
            assert answer.status_code == 200
            ports.add(answer.extensions["network_stream"].get_extra_info("client_addr")[1])
            sleep(0.1)  # in all, longer than a beginning may take
        assert len(ports) == 1


@pytest.mark.parametrize("line_", [b"\x16\x03\x01\x02\x00", b"GET / HTTP/9\r\n\r\n", b"G" * 100_000])
def test_what_is_not_http(line_: bytes, server: tuple[str, int]) -> None:
    with closing(socket.create_connection(server)) as line:
        line.sendall(line_)
        assert ended(line).startswith((b"HTTP/1.1 400", b""))
    assert httpx.get("http://{}:{}/health".format(*server), headers={"host": "localhost"}).status_code == 200


@pytest.mark.parametrize(
    "both", [b"content-length: 5\r\ntransfer-encoding: chunked", b"content-length: 5\r\ncontent-length: 6"]
)
def test_two_lengths(both: bytes, server: tuple[str, int]) -> None:
    """What proxies smuggle requests by: it is one request, or none."""
    with closing(socket.create_connection(server)) as line:
        line.sendall(
            b"POST /health HTTP/1.1\r\nhost: localhost\r\n" + both + b"\r\n\r\n0\r\n\r\nGET /ready HTTP/1.1\r\n\r\n"
        )
        answers = ended(line)
    assert b" 200 " not in answers


def test_beyond_the_most_connections_the_answer_is_a_refusal_in_openais_envelope() -> None:
    with listening(limit_concurrency=2) as address, ExitStack() as open_ones:
        url = f"http://{address[0]}:{address[1]}/health"
        first = open_ones.enter_context(httpx.Client(timeout=PATIENCE_S))
        assert first.get(url).status_code == 200
        line = open_ones.enter_context(socket.create_connection(address, PATIENCE_S))
        answer = httpx.get(url, timeout=PATIENCE_S)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "connections_full")
        assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("1", "true")
        assert answer.headers["connection"] == "close"
        assert answer.headers["x-request-id"]  # it is logged and counted as any other
        assert first.get(url).status_code == 200  # what was open before goes on
        line.close()
        until(lambda: httpx.get(url, timeout=PATIENCE_S).status_code == 200)


def test_near_the_most_connections_idle_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BEGIN_S", 600.0)
    monkeypatch.setattr(connections, "CROWDED_S", 0)
    with listening(limit_concurrency=20, timeout_keep_alive=600) as address, ExitStack() as open_ones:
        lines = [open_ones.enter_context(socket.create_connection(address, PATIENCE_S)) for _ in range(19)]
        for line in lines[-2:]:
            line.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"alive" in ended(lines[-1])
        assert b"alive" in ended(lines[-2])
        lines[0].sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        got = b""
        while b"alive" not in got:
            got += lines[0].recv(1 << 16)
        lines[0].settimeout(1.0)
        with pytest.raises(TimeoutError):  # there is room again, so it stays
            lines[0].recv(1)

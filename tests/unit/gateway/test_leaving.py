"""Callers who leave: what they asked for is stopped at once, whether it streams or not."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator

import httpx
import pytest
from starlette.types import Message, Scope

from impasto_gateway.errors import CANCELLED, Refusal
from impasto_gateway.presence import while_present
from tests.helpers.gateways import HeldTransport, app_over, connected, fake, listening, png, request_bytes
from tests.helpers.waiting import PATIENCE_S


def body(**said: object) -> bytes:
    return json.dumps({"prompt": "a red boat", **said}).encode()


@pytest.mark.parametrize("stream", [False, True])
def test_a_killed_caller_stops_the_painting(stream: bool) -> None:
    held = HeldTransport()
    with listening(app_over(held)) as url:
        with connected(url) as connection:
            connection.sendall(request_bytes(body(stream=stream)))
            assert held.begun.wait(PATIENCE_S)
            assert not held.left.is_set()
        assert held.left.wait(PATIENCE_S)


def test_a_caller_who_has_read_a_preview_and_leaves_stops_the_painting() -> None:
    held = HeldTransport()
    with (
        listening(app_over(held)) as url,
        httpx.stream(
            "POST", f"{url}/v1/images/generations", json={"prompt": "a boat", "stream": True, "progress": True}
        ) as answer,
    ):
        assert next(answer.iter_lines()) == "event: image_generation.progress"
        answer.close()
        assert held.left.wait(PATIENCE_S)


def test_who_leaves_during_an_edit_stops_it() -> None:
    held = HeldTransport()
    form = httpx.Request("POST", "http://localhost/v1/images/edits", files={"image": png()}, data={"prompt": "a boat"})
    head = "\r\n".join(f"{name}: {value}" for name, value in form.headers.items())
    with listening(app_over(held)) as url:
        with connected(url) as connection:
            connection.sendall(f"POST /v1/images/edits HTTP/1.1\r\n{head}\r\n\r\n".encode() + form.read())
            assert held.begun.wait(PATIENCE_S)
        assert held.left.wait(PATIENCE_S)


def test_who_sent_half_a_request_asked_for_nothing() -> None:
    held = HeldTransport()
    with listening(app_over(held)) as url:
        with connected(url) as connection:
            connection.sendall(request_bytes(body())[:-5])
        assert httpx.get(f"{url}/health").status_code == 200
    assert not held.fake.requests


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/images/edits", "/v1/score"])
def test_who_leaves_while_the_body_arrives_is_no_failure(path: str) -> None:
    begun, left = {"type": "http.request", "body": b"--x", "more_body": True}, {"type": "http.disconnect"}
    arriving: Iterator[Message] = iter([begun, left])
    headers = [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=x")]
    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": headers,
        "query_string": b"",
        "state": {},
    }

    async def receive() -> Message:
        return next(arriving)

    async def send(message: Message) -> None:
        pass

    async def story() -> None:
        await app_over(fake())(scope, receive, send)  # an exception would be logged with its traceback

    asyncio.run(story())
    record = scope["state"]["record"]
    assert (record.status, record.outcome) == (CANCELLED, "cancelled")


def test_one_who_leaves_does_not_stop_another() -> None:
    held = HeldTransport()
    with listening(app_over(held)) as url, connected(url) as staying:
        staying.sendall(request_bytes(body(seed=1)))
        assert held.begun.wait(PATIENCE_S)
        held.begun.clear()
        with connected(url) as leaving:
            leaving.sendall(request_bytes(body(seed=2)))
            assert held.begun.wait(PATIENCE_S)
        assert held.left.wait(PATIENCE_S)
        held.let_go.set()
        assert re.match(rb"HTTP/1.1 200 ", staying.recv(1 << 16))
    assert [request["SEED"].item() for request in held.fake.requests] == [1]


def test_left_work_is_told_from_failed_work() -> None:
    async def left() -> None:
        async def leaving() -> dict[str, str]:
            return {"type": "http.disconnect"}

        await while_present(leaving, asyncio.sleep(PATIENCE_S))

    with pytest.raises(Refusal) as caught:
        asyncio.run(left())
    assert caught.value.status == CANCELLED

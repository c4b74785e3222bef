"""Bodies: bounded while they arrive, JSON read strictly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.types import Message

from impasto_gateway.bodies import Body, Held, check_head, parsed_json
from impasto_gateway.errors import Refusal
from impasto_gateway.settings import Limits
from impasto_gateway.strict import DEPTH, VALUES
from tests.helpers.doorway import SETTINGS, calling, refused

PATH = "/v1/images/generations"
SMALL = replace(SETTINGS, limits=Limits(body_bytes=1000, adapter_bytes=2000))
LIMITS = Limits()


def posted(
    content: bytes | AsyncIterator[bytes], method: str = "POST", path: str = PATH, **headers: str
) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with calling(SMALL) as caller:
            return await caller.request(method, path, content=content, headers=headers)

    return asyncio.run(ask())


async def chunks(count: int, size: int = 100) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b" " * size


def test_a_body_that_says_that_it_is_too_large_is_not_read() -> None:
    async def untouched() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    answer = posted(untouched(), **{"content-length": "1001"})
    assert refused(answer) == (413, "body_too_large", None)
    assert "more than 1000 bytes" in answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"


def test_a_body_that_doesnt_say_is_read_up_to_the_bound() -> None:
    assert refused(posted(chunks(11)))[:2] == (413, "body_too_large")
    assert refused(posted(chunks(10)))[:2] == (400, "invalid_json")


def test_a_body_that_lies_is_read_up_to_the_bound() -> None:
    assert refused(posted(chunks(11), **{"content-length": "5"}))[:2] == (413, "body_too_large")


def test_an_uploaded_adapter_has_a_bound_of_its_own() -> None:
    path = "/v1/adapters/ink"
    assert refused(posted(chunks(15), "PUT", path))[0] == 501  # there is no registry
    assert refused(posted(b"", "PUT", path, **{"content-length": "2001"}))[:2] == (413, "body_too_large")
    assert refused(posted(chunks(15), "POST", path))[0] == 405


@pytest.mark.parametrize("length", ["-1", "1e3", "³", "", "1" * 400 + "x"])
def test_a_length_that_is_no_number(length: str) -> None:
    with pytest.raises(Refusal, match="content-length") as said:
        check_head(Headers({"content-length": length}), 1000)
    assert said.value.status == 400


def test_a_length_beside_chunks() -> None:
    answer = posted(b"{}", **{"content-length": "2", "transfer-encoding": "chunked"})
    assert refused(answer) == (400, "bad_content_length", None)
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("packed", ["gzip", "br", "gzip, identity", "deflate"])
def test_compressed_bodies_are_refused(packed: str) -> None:
    assert refused(posted(b"{}", **{"content-encoding": packed})) == (415, "body_compressed", None)


def test_a_body_that_never_ends_is_given_up() -> None:
    async def silence() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def drops() -> Message:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def read(receive: Any) -> None:
        body = Body(receive, 1 << 40, 0.05, Held(1 << 40))
        while True:
            await body.receive()

    for receive in (silence, drops):
        with pytest.raises(Refusal, match="and no end") as said:
            asyncio.run(asyncio.wait_for(read(receive), 60))
        assert (said.value.status, said.value.again) == (408, True)


def test_bodies_at_once_have_a_bound_too() -> None:
    """Two bodies fit in, one after another; together they don't, though each is small enough."""
    half = Limits(body_bytes=1000, held_bytes=1000)
    arriving, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b" " * 600
        arriving.set()
        await go_on.wait()

    async def story() -> tuple[httpx.Response, list[int]]:
        async with calling(replace(SETTINGS, limits=half)) as caller:
            first = asyncio.create_task(caller.post(PATH, content=slowly()))
            await asyncio.wait_for(arriving.wait(), 60)
            second = await caller.post(PATH, content=b" " * 600)
            go_on.set()
            await first
            return second, [(await caller.post(PATH, content=b" " * 600)).status_code for _ in range(3)]

    answer, after = asyncio.run(story())
    assert refused(answer) == (503, "bodies_full", None)
    assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("1", "true")
    assert after == [400, 400, 400], "what was held is let go"


def test_once_the_body_has_ended_waiting_is_free() -> None:
    async def story() -> None:
        messages: asyncio.Queue[Message] = asyncio.Queue()
        body = Body(messages.get, 100, 0.05, Held(100))
        messages.put_nowait({"type": "http.request", "body": b"x", "more_body": False})
        assert (await body.receive())["body"] == b"x"
        waiting = asyncio.create_task(body.receive())
        await asyncio.sleep(0.1)  # longer than a body may take
        messages.put_nowait({"type": "http.disconnect"})
        assert (await waiting)["type"] == "http.disconnect"

    asyncio.run(story())


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b"{} {}", "it is not JSON: extra data at line 1, column 4"),
        (b"{'a': 1}", "it is not JSON"),
        (b"\xff{}", "byte 0 is not UTF-8"),
        (b"\xef\xbb\xbf{}", "it is not JSON"),
        ("{}".encode("utf-16"), "byte 0 is not UTF-8"),
        (b"[]", "it is a JSON array; send an object"),
        (b"null", "it is a JSON null"),
        (b'"a red boat"', "it is a JSON string"),
        (b"true", "it is a JSON boolean"),
        (b"1", "it is a JSON number"),
        (b'{"seed": NaN}', "NaN is not JSON"),
        (b'{"seed": -Infinity}', "-Infinity is not JSON"),
        (b'{"seed": 1e999}', "the number 1e999 is too large"),
        (b'{"seed": -1e999}', "the number -1e999 is too large"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "has 5000 digits"),
        (b'{"seed": ' + b"9" * 41 + b"}", "has 41 digits"),
        (b'{"prompt": "\\ud800"}', "half of a surrogate pair"),
        (b'{"\\udc00": 1}', "half of a surrogate pair"),
        (b'{"a":' * 5000, "it "),
        (b'{"a":' + b"[" * 15_000 + b"]" * 15_000 + b"}", f"it has more than {DEPTH} levels"),
        (b'{"a":' + b"[" * DEPTH + b"]" * DEPTH + b"}", f"it has more than {DEPTH} levels"),
        (b'{"a":[' + b"[]," * 40_000 + b"[]]}", f"it has more than {VALUES} values"),
    ],
)
def test_json_that_is_refused(raw: bytes, problem: str) -> None:
    with pytest.raises(Refusal) as said:
        parsed_json(raw, LIMITS)
    assert said.value.status == 400
    assert said.value.code == "invalid_json"
    assert said.value.message.startswith("body: ")
    assert problem in said.value.message


@pytest.mark.parametrize(
    "raw", [b'{"seed": 1, "seed": 2}', b'{"seed": 1, "\\u0073eed": 1}', b'{"a": {"seed": 1, "seed": 1}}']
)
def test_a_field_that_stands_there_twice(raw: bytes) -> None:
    with pytest.raises(Refusal, match="seed: it stands there twice") as said:
        parsed_json(raw, LIMITS)
    assert (said.value.status, said.value.code, said.value.param) == (400, "duplicate_field", "seed")


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"prompt": "a red boat", "seed": 2**63 - 1, "adapters": [{"name": "ink", "weight": -0.5}], "stream": True},
        {"prompt": "\N{ROCKET} \0 \\ud800", "user": None},
        {"prompt": "," * 8192},
        {"image": "A" * (1 << 20)},
    ],
)
def test_json_that_is_read(said: dict[str, Any]) -> None:
    assert parsed_json(json.dumps(said).encode(), LIMITS) == said
    assert parsed_json(json.dumps(said, ensure_ascii=False).encode(), LIMITS) == said

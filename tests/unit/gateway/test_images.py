"""Pictures over HTTP, without a network: envelopes, streams, deadlines, marks, checks."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from impasto_client.errors import ServerFull
from impasto_client.marks import read
from impasto_gateway import streams
from impasto_gateway.checks import Pixels, Refused
from tests.helpers.gateways import (
    SETTINGS,
    SMALL,
    HeldTransport,
    app_over,
    calling,
    fake,
    listening,
    png,
    post,
    size_of,
)

BOAT = {"prompt": "a red boat", "seed": 7}


def picture(answer: httpx.Response) -> bytes:
    """The first picture's file."""
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


def events(answer: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    """The events of a stream: name and data."""
    assert answer.status_code == 200, answer.text
    lines = [one.split("\n") for one in answer.text.split("\n\n") if one and not one.startswith(":")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in lines]


def edited(*transports: Any, files: Any, **said: str) -> httpx.Response:
    async def asked() -> httpx.Response:
        async with calling(app_over(*(transports or (fake(),)))) as client:
            return await client.post("/v1/images/edits", data=said, files=files)

    return asyncio.run(asked())


def test_an_answer_has_all_that_clients_look_for() -> None:
    answer = post({**BOAT, "n": 2, "size": "128x64"}).json()
    assert {*answer} == {*"created data size quality background output_format usage warnings meta".split()}
    assert (answer["size"], answer["output_format"]) == ("128x64", "png")
    assert [{*one} for one in answer["data"]] == [{"b64_json", "seed", "revised_prompt"}] * 2
    assert answer["usage"]["total_tokens"] == 0


def test_a_prompt_that_was_changed_comes_back() -> None:
    answer = post({"prompt": "a red boat <lora:neon:0.5>"}).json()
    assert answer["data"][0]["revised_prompt"] == "a red boat"


def test_scores_come_back() -> None:
    scores = [one["score"] for one in post({**BOAT, "n": 3, "rerank": "text"}).json()["data"]]
    assert scores == sorted(scores, reverse=True)


def test_the_stream_paints_the_same_picture() -> None:
    *partials, (name, completed) = events(post({**BOAT, "stream": True, "partial_images": 2, "steps": 6}))
    assert [(name, data["step"], data["steps"]) for name, data in partials] == [
        ("image_generation.partial_image", 2, 6),
        ("image_generation.partial_image", 4, 6),
    ]
    assert name == completed["type"] == "image_generation.completed"
    assert base64.b64decode(completed["b64_json"]) == picture(post({**BOAT, "steps": 6}))
    assert (completed["seed"], completed["index"], completed["size"]) == (7, 0, "128x128")


def test_several_candidates_stream_with_their_places() -> None:
    told = events(post({**BOAT, "n": 2, "stream": True, "partial_images": 1}))
    assert [(name.partition(".")[2], data["index"]) for name, data in told] == [
        ("partial_image", 0),
        ("partial_image", 1),
        ("completed", 0),
        ("completed", 1),
    ]


def test_each_step_is_told_to_who_asks_for_it() -> None:
    told = events(post({**BOAT, "stream": True, "progress": True, "steps": 3}))
    assert [(data.get("step"), data.get("steps")) for _, data in told] == [(1, 3), (2, 3), (3, 3), (None, None)]


def test_a_photo_streams_its_painting_alone() -> None:
    answer = edited(files={"image": png()}, model="stylizer", style="starry", stream="true", partial_images="3")
    ((name, data),) = events(answer)
    assert (name, data["seed"], data["size"]) == ("image_edit.completed", None, "48x32")


def test_a_refusal_that_comes_at_once_has_its_status() -> None:
    transport = fake()
    answer = post({**BOAT, "stream": True, "steps": "many"}, transport)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "steps")
    assert not transport.requests


def test_a_refusal_that_comes_late_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(HeldTransport):
        async def stream(self, tensors: Any, timeout_s: float | None = None) -> Any:
            await asyncio.sleep(0.1)
            raise ServerFull("the server is full", 3.0)
            yield

    monkeypatch.setattr(streams, "HOLD_S", 0.0)
    ((name, data),) = events(post({**BOAT, "stream": True}, Late()))
    assert (name, data["status"], data["error"]["code"]) == ("error", 429, "server_full")


def test_the_deadline_is_the_servers_too() -> None:
    transport = fake()

    async def asked(header: str | None, **said: Any) -> int:
        headers = {} if header is None else {"x-timeout-s": header}
        async with calling(app_over(transport, settings=replace(SETTINGS, limits=SMALL))) as client:
            answer = await client.post("/v1/images/generations", json={**BOAT, **said}, headers=headers)
            return answer.status_code

    assert asyncio.run(asked(None)) == 200
    assert asyncio.run(asked(None, timeout=5)) == 200
    assert asyncio.run(asked("4.5")) == 200
    assert asyncio.run(asked("8", timeout=2)) == 200
    assert [one for one in transport.timeouts if one != 300.0] == [9.0, 5.0, 4.5, 2.0]  # 300 is the catalogue's
    assert asyncio.run(asked("10")) == 400
    assert asyncio.run(asked("soon")) == 400


def test_the_same_key_is_painted_once() -> None:
    transport = fake()

    async def asked() -> list[Any]:
        async with calling(app_over(transport)) as client:
            said: Any = {"url": "/v1/images/generations", "json": BOAT, "headers": {"idempotency-key": "one"}}
            return [(await client.post(**said)).json() for _ in range(2)]

    one, other = asyncio.run(asked())
    assert one == other
    assert len(transport.requests) == 1


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_files_say_how_they_were_painted(format: str) -> None:
    mark = read(picture(post({**BOAT, "output_format": format, "adapters": {"neon": 0.5}})))
    assert mark is not None
    assert (mark.prompt, mark.seed, [one.name for one in mark.adapters]) == ("a red boat", 7, ["neon"])


def test_files_say_nothing_where_that_is_not_wanted() -> None:
    assert read(picture(post({**BOAT, "metadata": False}))) is None
    assert read(picture(post(BOAT, settings=replace(SETTINGS, metadata=False)))) is None


def black(rgb: Pixels, words: str) -> Pixels | Refused:
    """A check: paints all black, and refuses red things."""
    return Refused("no red things") if "red" in words else np.zeros_like(rgb)


CHECKED = replace(SETTINGS, check=f"{__name__}:black")


def test_a_check_may_refuse_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("impasto_gateway.parts.check_of", lambda settings: black)
    answer = post(BOAT, settings=CHECKED)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "moderation_blocked")


def test_a_check_sees_previews_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("impasto_gateway.parts.check_of", lambda settings: black)
    told = events(post({"prompt": "a boat", "stream": True, "partial_images": 1}, settings=CHECKED))
    assert [size_of(base64.b64decode(data["b64_json"])) for _, data in told] == [("PNG", 128, 128)] * 2
    assert len({data["b64_json"] for _, data in told}) == 2  # the one has marks
    ((name, data),) = events(post({**BOAT, "stream": True, "partial_images": 1}, settings=CHECKED))
    assert (name, data["status"]) == ("error", 400)


def test_what_breaks_in_the_gateway_is_told_without_details(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(HeldTransport):
        async def stream(self, tensors: Any, timeout_s: float | None = None) -> Any:
            yield next(self.fake.stream(tensors))
            raise ZeroDivisionError("a secret")

    ((name, data),) = events(post({**BOAT, "stream": True}, Broken()))
    assert (name, data["error"]["code"]) == ("error", "internal_error")
    assert "secret" not in json.dumps(data)
    assert "ZeroDivisionError" in caplog.text


def test_a_connection_that_is_closed_after_a_failure_says_so() -> None:
    class Broken(HeldTransport):
        async def infer(self, tensors: Any, timeout_s: float | None = None) -> Any:
            raise ZeroDivisionError

    with listening(app_over(Broken())) as url:
        answer = httpx.post(f"{url}/v1/images/generations", json=BOAT)
    assert (answer.status_code, answer.headers["connection"]) == (500, "close")


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[]", b'{"prompt": NaN}', b'{"prompt": "a", "prompt": "b"}', b"\xff"]
)
def test_a_body_that_is_no_object_is_refused(content: bytes) -> None:
    async def asked() -> httpx.Response:
        async with calling(app_over(fake())) as client:
            return await client.post("/v1/images/generations", content=content)

    answer = asyncio.run(asked())
    assert (answer.status_code, answer.headers["x-should-retry"]) == (400, "false")


def test_an_edit_without_a_picture_is_refused() -> None:
    answer = edited(files={"mask": png()}, prompt="a red boat")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")


def test_messages_are_in_the_callers_words() -> None:
    message = post({**BOAT, "num_inference_steps": "many"}).json()["error"]["message"]
    assert message == "num_inference_steps: 'many' is not a whole number; pass one"

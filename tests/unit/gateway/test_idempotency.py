"""The same key and body are painted once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest
from starlette.responses import JSONResponse, Response, StreamingResponse

from impasto_client import FakeTransport
from impasto_gateway.callers import Caller
from impasto_gateway.errors import Refusal
from impasto_gateway.idempotency import Answers, check_key, digest_of
from tests.helpers.doorway import calling, refused

STUDIO, OTHER = Caller("studio", frozenset({"generate"})), Caller("other", frozenset({"generate"}))
PATH = "/v1/images/generations"


class Painter:
    """Counts its paintings; each begins, and ends once `gate` is open."""

    def __init__(self, body: bytes = b"picture", fails: int = 0) -> None:
        self.begun, self.fails, self.body = 0, fails, body
        self.gate, self.started = asyncio.Event(), asyncio.Event()
        self.gate.set()

    async def work(self) -> Response:
        self.begun += 1
        self.started.set()
        await self.gate.wait()
        if self.begun <= self.fails:
            raise Refusal(503, "later", "unavailable", again=True)
        return Response(self.body, headers={"x-number": str(self.begun)})


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def told() -> None:
        await asyncio.wait_for(story(), 60)

    asyncio.run(told())


def test_a_second_time_is_answered_and_not_painted() -> None:
    async def story() -> None:
        answers, painter = Answers(), Painter()
        first = await answers.once(STUDIO, "key", "digest", painter.work)
        second = await answers.once(STUDIO, "key", "digest", painter.work)
        assert painter.begun == 1
        assert (second.body, second.status_code) == (first.body, 200)
        assert second.headers["x-number"] == "1"
        assert "idempotent-replayed" not in first.headers
        assert second.headers["idempotent-replayed"] == "true"

    run(story)


def test_who_comes_meanwhile_waits() -> None:
    async def story() -> None:
        answers, painter = Answers(), Painter()
        painter.gate.clear()
        crowd = [asyncio.create_task(answers.once(STUDIO, "key", "digest", painter.work)) for _ in range(10)]
        await painter.started.wait()
        painter.gate.set()
        assert {answer.body for answer in await asyncio.gather(*crowd)} == {b"picture"}
        assert painter.begun == 1

    run(story)


def test_when_the_first_leaves_the_next_paints() -> None:
    async def story() -> None:
        answers, painter = Answers(), Painter()
        painter.gate.clear()
        first = asyncio.create_task(answers.once(STUDIO, "key", "digest", painter.work))
        await painter.started.wait()
        second = asyncio.create_task(answers.once(STUDIO, "key", "digest", painter.work))
        painter.started.clear()
        first.cancel()
        await painter.started.wait()
        painter.gate.set()
        assert (await second).body == b"picture"
        assert painter.begun == 2

    run(story)


def test_what_was_refused_may_be_tried_again() -> None:
    async def story() -> None:
        answers, painter = Answers(), Painter(fails=1)
        with pytest.raises(Refusal, match="later"):
            await answers.once(STUDIO, "key", "digest", painter.work)
        assert (await answers.once(STUDIO, "key", "digest", painter.work)).body == b"picture"

    run(story)


def test_another_body_is_refused() -> None:
    async def story() -> None:
        answers, painter = Answers(), Painter()
        await answers.once(STUDIO, "key", "digest", painter.work)
        with pytest.raises(Refusal, match="idempotency-key: this key came with another request") as refused:
            await answers.once(STUDIO, "key", "another", painter.work)
        assert (refused.value.status, refused.value.code, refused.value.again) == (422, "idempotency_error", False)

    run(story)


def test_keys_belong_to_their_callers() -> None:
    async def story() -> None:
        answers, painter = Answers(), Painter()
        await answers.once(STUDIO, "key", "digest", painter.work)
        await answers.once(OTHER, "key", "another", painter.work)
        assert painter.begun == 2

    run(story)


def test_without_a_key_everything_is_painted() -> None:
    async def story() -> None:
        answers, painter = Answers(), Painter()
        for _ in range(2):
            await answers.once(STUDIO, None, "digest", painter.work)
        assert painter.begun == 2

    run(story)


def test_answers_are_forgotten_in_time() -> None:
    async def story() -> None:
        now = 0.0
        answers, painter = Answers(kept_s=600, clock=lambda: now), Painter()
        await answers.once(STUDIO, "key", "digest", painter.work)
        now = 599.0
        await answers.once(STUDIO, "key", "digest", painter.work)
        assert painter.begun == 1
        now = 600.0
        await answers.once(STUDIO, "key", "another", painter.work)
        assert painter.begun == 2

    run(story)


def test_the_oldest_make_room() -> None:
    async def story() -> None:
        answers, painter = Answers(kept_bytes=250), Painter(bytes(100))
        for key in "abc":
            await answers.once(STUDIO, key, "digest", painter.work)
        await answers.once(STUDIO, "c", "digest", painter.work)
        assert painter.begun == 3
        await answers.once(STUDIO, "a", "digest", painter.work)
        assert painter.begun == 4

    run(story)


def test_what_streams_or_is_too_large_is_not_kept() -> None:
    async def stream() -> Response:
        return StreamingResponse(iter([b"picture"]))

    async def story() -> None:
        answers, painter = Answers(kept_bytes=50), Painter(bytes(100))
        for _ in range(2):
            await answers.once(STUDIO, "large", "digest", painter.work)
            assert isinstance(await answers.once(STUDIO, "stream", "digest", stream), StreamingResponse)
        assert painter.begun == 2

    run(story)


def test_refusals_that_are_answers_are_not_kept() -> None:
    async def story() -> None:
        answers, begun = Answers(), 0

        async def work() -> Response:
            nonlocal begun
            begun += 1
            return JSONResponse({}, 429)

        for _ in range(2):
            await answers.once(STUDIO, "key", "digest", work)
        assert begun == 2

    run(story)


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", "ключ", "\x7f"])
def test_what_is_no_key(key: str) -> None:
    with pytest.raises(Refusal, match="idempotency-key: ") as refused:
        check_key(key)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("keys", "said", "problem"),
    [
        (["one"], {"stream": True}, "leave stream out, or the key"),
        (["one", "two"], {}, "there are 2; send one"),
        (["one", "one"], {}, "there are 2; send one"),
    ],
)
def test_a_key_that_could_not_be_kept_is_refused(keys: list[str], said: dict[str, object], problem: str) -> None:
    async def story() -> None:
        fake = FakeTransport()
        async with calling(fake=fake) as caller:
            headers = [("idempotency-key", key) for key in keys]
            answer = await caller.post(PATH, json={"prompt": "a red boat", **said}, headers=headers)
        assert refused(answer) == (400, "invalid_value", None)
        message = answer.json()["error"]["message"]
        assert message.startswith("idempotency-key: ")
        assert message.endswith(problem)
        assert not fake.requests

    run(story)


def test_the_order_of_fields_is_no_difference() -> None:
    files = {"image": [b"one", b"two"]}
    same = digest_of(PATH, {"prompt": "a boat", "seed": 1}, files)
    assert digest_of(PATH, {"seed": 1, "prompt": "a boat"}, files) == same
    others = [
        digest_of("/v1/images/edits", {"prompt": "a boat", "seed": 1}, files),
        digest_of(PATH, {"prompt": "a boat", "seed": 2}, files),
        digest_of(PATH, {"prompt": "a boat", "seed": 1}, {"image": [b"two", b"one"]}),
        digest_of(PATH, {"prompt": "a boat", "seed": 1}),
    ]
    assert same not in others


def test_through_the_app() -> None:
    async def story() -> None:
        fake = FakeTransport()

        async def post(seed: int) -> httpx.Response:
            headers = {"idempotency-key": "9b1deb4d"}
            return await caller.post(PATH, json={"prompt": "a red boat", "seed": seed}, headers=headers)

        async with calling(fake=fake) as caller:
            first, second = await post(7), await post(7)
            assert second.json() == first.json()
            assert len(fake.requests) == 1
            assert refused(await post(8)) == (422, "idempotency_error", None)

    run(story)

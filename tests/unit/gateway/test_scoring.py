"""POST /v1/score."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from impasto_client import FakeTransport, ServerUnavailable
from tests.helpers.doorway import calling, refused

File = tuple[str, tuple[str, bytes, str]]


def image(data: bytes, name: str = "image") -> File:
    return name, ("a.png", data, "image/png")


def scored(*files: File, fake: FakeTransport | None = None, **texts: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with calling(fake=fake) as caller:
            return await caller.post("/v1/score", files=list(files), data=texts)

    return asyncio.run(ask())


def test_pictures_and_a_text() -> None:
    answer = scored(image(b"one"), image(b"two"), text="a red boat").json()
    assert answer["object"] == "list"
    assert [one["index"] for one in answer["data"]] == [0, 1]
    assert all(-1 <= one["score"] <= 1 for one in answer["data"])


def test_a_picture_is_most_like_itself() -> None:
    answer = scored(image(b"one", "image[]"), image(b"two", "image[]"), image(b"two", "reference")).json()
    other, same = (one["score"] for one in answer["data"])
    assert same == pytest.approx(1)
    assert other < 0.99


def test_a_text_for_each_picture() -> None:
    fake = FakeTransport()
    assert scored(image(b"1"), image(b"2"), fake=fake, **{"text[]": ["a", "b"]}).status_code == 200
    assert fake.requests[-1]["TEXT"].tolist() == [b"a", b"b"]


@pytest.mark.parametrize(
    ("files", "texts", "param"),
    [
        ([], {"text": "a"}, "image"),
        ([image(b"1")] * 17, {"text": "a"}, "image"),
        ([image(b"1")], {}, "text"),
        ([image(b"1"), image(b"1", "reference")], {"text": "a"}, "text"),
        ([image(b"1")] * 3, {"text[]": ["a", "b"]}, "text"),
        ([image(b"1")] * 3 + [image(b"1", "reference")] * 2, {}, "reference"),
        ([image(b"1")], {"text": "a", "seed": "1"}, "seed"),
        ([image(b"1")], {"reference": "a"}, "reference"),
        ([image(b"1"), image(b"a", "text")], {}, "text"),
        ([image(b"1")], {"text[a]": "a"}, "text"),
    ],
)
def test_what_is_refused(files: list[File], texts: dict[str, Any], param: str) -> None:
    files = files or [image(b"1", "mask")]
    answer = scored(*files, **texts)
    assert answer.status_code == 400
    assert refused(answer)[2] in (param, "mask")


def test_other_bodies() -> None:
    async def ask() -> httpx.Response:
        async with calling() as caller:
            return await caller.post("/v1/score", json={"image": "a"})

    assert refused(asyncio.run(ask()))[:2] == (415, "unsupported_media_type")


def test_a_server_without_a_scorer() -> None:
    problem = "the server at localhost:8001 has no scorer; start the server with --scorer"
    answer = scored(image(b"1"), text="a", fake=FakeTransport(error=ServerUnavailable(problem)))
    assert refused(answer) == (501, "no_scorer", None)
    assert answer.headers["x-should-retry"] == "false"
    assert "localhost:8001" not in answer.text
    later = scored(image(b"1"), text="a", fake=FakeTransport(error=ServerUnavailable("it is stopping")))
    assert refused(later)[0] == 503

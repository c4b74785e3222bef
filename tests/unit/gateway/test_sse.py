"""Server-sent events: what goes over the wire, and that nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from impasto_gateway import sse
from impasto_gateway.sse import Event, Events


class Reader:
    """Of a stream: keeps what was sent, and leaves when it has read `patience` messages."""

    def __init__(self, patience: int | None = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self._left = asyncio.Event()
        self._patience = patience

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if len(self.sent) == self._patience:
            self._left.set()

    async def receive(self) -> dict[str, str]:
        await self._left.wait()
        return {"type": "http.disconnect"}

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()


def read(events: AsyncGenerator[Event, None], patience: int | None = None) -> tuple[Reader, list[str]]:
    """What a reader got, and how often the stream was closed."""
    closed = []

    async def close() -> None:
        closed.append("closed")

    async def sent() -> Reader:
        reader = Reader(patience)
        await Events(events, close)({"type": "http"}, reader.receive, reader.send)
        return reader

    return asyncio.run(sent()), closed


async def two() -> AsyncGenerator[Event, None]:
    yield Event("first", {"text": "a\nline"})
    yield Event("second", {"number": 2})


async def endless(ended: list[str]) -> AsyncGenerator[Event, None]:
    try:
        yield Event("first", {})
        await asyncio.Event().wait()
    finally:
        ended.append("ended")


def test_events_are_lines_of_json() -> None:
    reader, closed = read(two())
    assert reader.text == 'event: first\ndata: {"text": "a\\nline"}\n\nevent: second\ndata: {"number": 2}\n\n'
    assert reader.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert closed == ["closed"]


def test_proxies_are_asked_to_pass_events_on_at_once() -> None:
    headers = dict(read(two())[0].sent[0]["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert (headers[b"cache-control"], headers[b"x-accel-buffering"]) == (b"no-store", b"no")
    assert b"content-length" not in headers


def test_a_reader_who_leaves_ends_the_events() -> None:
    ended: list[str] = []
    reader, closed = read(endless(ended), patience=2)
    assert (ended, closed) == (["ended"], ["closed"])
    assert len(reader.sent) == 2


def test_a_silent_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "PING_S", 0.01)
    reader, _ = read(endless([]), patience=5)
    assert reader.text.endswith(": ping\n\n" * 3)


def test_what_fails_is_raised_and_closed() -> None:
    async def broken() -> AsyncGenerator[Event, None]:
        yield Event("first", {})
        raise ZeroDivisionError

    closed = []

    async def close() -> None:
        closed.append("closed")

    async def sent() -> None:
        reader = Reader()
        await Events(broken(), close)({"type": "http"}, reader.receive, reader.send)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(sent())
    assert closed == ["closed"]


def test_a_comment_says_how_many_others_there_are_when_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LOOK_S", 0.0)
    counts = [0, 0, 3, 3, 3, 1]

    def others() -> int:
        return counts.pop(0) if len(counts) > 1 else counts[0]

    async def closed() -> None:
        pass

    async def sent() -> Reader:
        reader = Reader(patience=4)  # the start, the first event, and both comments
        await Events(endless([]), closed, others)({"type": "http"}, reader.receive, reader.send)
        return reader

    text = asyncio.run(sent()).text
    assert [line for line in text.splitlines() if line.startswith(":")] == [": others 3", ": others 1"]

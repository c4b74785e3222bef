"""A wish's answer as events: previews while it is painted, then its pictures, or an error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

from impasto_client import Progress
from impasto_gateway import envelopes
from impasto_gateway.answers import refusal_for
from impasto_gateway.asking import Answer
from impasto_gateway.errors import Refusal
from impasto_gateway.finishing import Finished
from impasto_gateway.partials import Spread
from impasto_gateway.presence import ended
from impasto_gateway.sse import Event
from impasto_gateway.wish import Wish

# A refusal within so many seconds is an answer with its status; a later one is an event of the stream.
HOLD_S = 2.0

_LOG = logging.getLogger(__name__)


class Stream:
    """The events of one wish. `name` is what OpenAI's events begin with.

    `finish` makes the files, `preview` that of a preview, or None; both are called in threads. `refused` is told of an
    error that comes after the stream has begun.
    """

    def __init__(
        self,
        parts: AsyncGenerator[Progress | Answer, None],
        name: str,
        wish: Wish,
        finish: Callable[[Answer], list[Finished]],
        preview: Callable[[bytes], bytes | None],
        refused: Callable[[Refusal], None],
    ) -> None:
        self._parts = parts
        self._name, self._wish = name, wish
        self._finish, self._preview, self._refused = finish, preview, refused
        self._spread = Spread(wish.partial_images)
        self._first: asyncio.Future[Any] | None = None

    async def begin(self) -> None:
        """Start the work, and wait a moment. Raises the Refusal that comes meanwhile."""
        self._first = asyncio.ensure_future(anext(self._parts))
        await asyncio.wait({self._first}, timeout=HOLD_S)
        if self._first.done():
            self._first.result()

    async def events(self) -> AsyncGenerator[Event, None]:
        """All of them; after `begin`."""
        assert self._first is not None, "begin() comes first"
        try:
            for event in await self._told(await self._first):
                yield event
            async for part in self._parts:
                for event in await self._told(part):
                    yield event
        except Exception as error:
            refusal = refusal_for(error)
            if refusal is not error and refusal.status == 500:
                _LOG.exception("a stream failed")
            self._refused(refusal)
            yield envelopes.failed(refusal)

    async def close(self) -> None:
        """Stop the work, if it still goes on."""
        if self._first is not None:
            await ended(self._first)
        await self._parts.aclose()

    async def _told(self, part: Progress | Answer) -> list[Event]:
        if not isinstance(part, Progress):
            pictures = await asyncio.to_thread(self._finish, part)
            return list(envelopes.completed(self._name, part, pictures, self._wish))
        place, chosen = self._spread.sent, self._spread.chosen(part)
        previews = [await asyncio.to_thread(self._preview, one) for one in chosen]
        shown = [
            envelopes.partial(self._name, place, index, one, part, self._wish)
            for index, one in enumerate(previews)
            if one is not None
        ]
        return [*([envelopes.stepped(self._name, part)] if self._wish.progress else []), *shown]

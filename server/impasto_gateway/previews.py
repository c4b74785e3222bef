"""Previews: a small picture of what each adapter does, painted once and kept in memory."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from math import inf

from PIL import Image, ImageDraw
from starlette.responses import Response

from impasto_client import AsyncClient, Options, Progress
from impasto_client.catalogue import Adapter, Bundle
from impasto_gateway.asking import Answer
from impasto_gateway.callers import Caller
from impasto_gateway.idempotency import Answers
from impasto_gateway.replay import Tell, painted
from impasto_gateway.turn import Turn
from impasto_gateway.upstream import Upstream
from impasto_gateway.wish import wanted_of

CONTEXT, SEED = "a house by a lake", 7
SIDE = 192  # pixels of the longer side
KEPT_BYTES = 64 << 20
AT_ONCE = 2  # paintings of previews; a page asks for dozens
TYPE = "image/webp"
_ALL = Caller("previews", frozenset())  # a preview is the same for everybody


class Previews:
    """The previews so far, by what they were painted of; the oldest make room for new ones."""

    def __init__(self, upstream: Upstream, timeout_s: float) -> None:
        self._upstream = upstream
        self._timeout_s = timeout_s
        self._kept = Answers(kept_s=inf, kept_bytes=KEPT_BYTES)
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def of(
        self, adapter: Adapter, bundle: Bundle, admitted: AbstractAsyncContextManager[None], tell: Tell
    ) -> bytes:
        """A WebP. Whoever is the first to want it is `admitted` while it is painted; nobody else is counted. `tell`
        hears when it is sent again.

        Raises errors of the ImpastoError tree, and Refusal.
        """

        async def work() -> Response:
            async with self._turns, admitted:
                data = await self._painted(adapter, bundle, tell)
            return Response(await asyncio.to_thread(shrunk, data))

        kept = await self._kept.once(_ALL, f"{adapter.digest}{bundle.digest}", "", work)
        return bytes(kept.body)

    async def _painted(self, adapter: Adapter, bundle: Bundle, tell: Tell) -> bytes:
        async def ask(client: AsyncClient, left_s: float) -> AsyncGenerator[Answer, None]:
            if adapter.kind == "vector":
                yield await client.stylize(scene(), adapter.name, model=bundle.name, timeout=left_s)
            else:
                options: Options = {**worn_by(adapter), "seed": SEED, "model": bundle.name}
                yield await client.generate(words_of(adapter), timeout=left_s, **options)

        turn = Turn(wanted_of(bundle.name, [adapter], adapter.digest))
        async with aclosing(painted(self._upstream, ask, self._timeout_s, turn, tell)) as parts:
            answer = await anext(parts)
        assert not isinstance(answer, Progress), "it doesn't stream"
        return answer.data


def worn_by(adapter: Adapter) -> Options:
    """The options by which a picture has the adapter: the server writes an embedding's words itself."""
    return {"style": adapter.name} if adapter.kind == "embedding" else {"adapters": adapter.name}


def words_of(adapter: Adapter) -> str:
    """A prompt as the adapter was trained with, or with its trigger."""
    if adapter.kind == "embedding":
        return CONTEXT
    if "{context}" in adapter.prompt:
        return adapter.prompt.replace("{context}", CONTEXT).replace("{style}", adapter.trigger or adapter.name)
    return f"{CONTEXT}, {adapter.trigger}" if adapter.trigger else CONTEXT


def scene(side: int = 256) -> Image.Image:
    """A photo's stand-in for styles of photos: sky, sun, hills, a lake and a house."""
    picture = Image.new("RGB", (side, side), (168, 206, 235))
    draw, unit = ImageDraw.Draw(picture), side / 16
    draw.ellipse([11 * unit, 1.5 * unit, 14 * unit, 4.5 * unit], (250, 226, 140))
    draw.ellipse([-4 * unit, 6 * unit, 9 * unit, 16 * unit], (92, 138, 84))
    draw.ellipse([5 * unit, 7 * unit, 21 * unit, 17 * unit], (66, 112, 72))
    draw.rectangle([0, 12 * unit, side, side], (70, 118, 158))
    draw.rectangle([5 * unit, 8.5 * unit, 9 * unit, 12 * unit], (214, 190, 152))
    draw.polygon([(4.5 * unit, 8.5 * unit), (7 * unit, 6 * unit), (9.5 * unit, 8.5 * unit)], (158, 62, 48))
    draw.rectangle([6.4 * unit, 10 * unit, 7.6 * unit, 12 * unit], (88, 58, 40))
    return picture


def shrunk(data: bytes) -> bytes:
    """The picture as a small WebP."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(data)) as picture:
        small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    small.save(file, "WEBP", quality=82)
    return file.getvalue()

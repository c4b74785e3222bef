"""POST /v1/images/generations and /v1/images/edits: a wish is read, painted, finished and answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from impasto_client import Progress
from impasto_client.errors import ImpastoError
from impasto_gateway import envelopes
from impasto_gateway.asking import Answer, asked
from impasto_gateway.bodies import parsed_form, parsed_json
from impasto_gateway.callers import Caller
from impasto_gateway.errors import Refusal, refusal_of
from impasto_gateway.finishing import finished, previewed
from impasto_gateway.idempotency import digest_of, key_of
from impasto_gateway.keys import need
from impasto_gateway.parts import parts_of, record_of
from impasto_gateway.presence import while_present
from impasto_gateway.replay import painted
from impasto_gateway.sse import Events
from impasto_gateway.streams import Stream
from impasto_gateway.turn import Turn
from impasto_gateway.typed import seconds, typed
from impasto_gateway.wish import Wish
from impasto_gateway.wishes import Files, wish_of

TIMEOUT = "x-timeout-s"
REPLAYS = "x-impasto-replays"  # how often the request was sent again; only where it was
GENERATION, EDIT = "image_generation", "image_edit"  # what events begin with


async def generations(request: Request) -> Response:
    """POST /v1/images/generations: paint a prompt. Raises Refusal."""
    caller = need(request, "generate")
    said = parsed_json(await request.body(), parts_of(request).settings.limits)
    return await _answered(request, caller, GENERATION, said, {})


async def edits(request: Request) -> Response:
    """POST /v1/images/edits: paint a picture anew or larger, or stylise a photo. Raises Refusal."""
    caller = need(request, "generate")
    form = await parsed_form(request, parts_of(request).settings.limits)
    return await _answered(request, caller, EDIT, typed(form.fields), form.files)


async def _answered(request: Request, caller: Caller, name: str, said: Mapping[str, Any], files: Files) -> Response:
    parts = parts_of(request)
    if TIMEOUT in request.headers and said.get("timeout") is None:
        said = {**said, "timeout": seconds(TIMEOUT, request.headers[TIMEOUT])}
    catalogue = await parts.upstream.catalogue()
    wish = wish_of(said, files, catalogue, parts.settings.limits, edits=name == EDIT).seeded()
    turn = Turn(wish.wanted(catalogue))
    _recorded(request, wish)
    key = key_of(request.headers, wish.stream)
    if wish.stream:
        return await _streamed(request, caller, name, wish, turn)
    digest = digest_of(request.url.path, said, files)
    work = partial(_whole, request, caller, wish, turn)
    return await while_present(request.receive, parts.answers.once(caller, key, digest, work))


async def _whole(request: Request, caller: Caller, wish: Wish, turn: Turn) -> Response:
    answer: Progress | Answer | None = None
    async with aclosing(_painted(request, caller, wish, turn)) as parts:
        async for part in parts:
            answer = part
    assert isinstance(answer, Answer), "the answer comes last"
    body = await asyncio.to_thread(_body, request, answer, wish)
    headers = {REPLAYS: str(turn.failed.total())} if turn.failed else None
    return Response(body, media_type="application/json", headers=headers)


def _body(request: Request, answer: Answer, wish: Wish) -> bytes:
    pictures = finished(answer, wish, parts_of(request))
    return json.dumps(envelopes.whole(answer, pictures, wish)).encode()


async def _streamed(request: Request, caller: Caller, name: str, wish: Wish, turn: Turn) -> Response:
    record = record_of(request)

    def refused(refusal: Refusal) -> None:
        record.status = refusal.status  # what the log and the metrics say; 200 has gone out already

    stream = Stream(
        parts=_painted(request, caller, wish, turn),
        name=name,
        wish=wish,
        finish=lambda answer: finished(answer, wish, parts_of(request)),
        preview=lambda preview: previewed(preview, wish, parts_of(request)),
        refused=refused,
    )
    try:
        await while_present(request.receive, stream.begin())
    except BaseException:
        await stream.close()
        raise
    return Events(stream.events(), stream.close, lambda: turn.others)


async def _painted(request: Request, caller: Caller, wish: Wish, turn: Turn) -> AsyncGenerator[Progress | Answer, None]:
    """Paid for in pixels, and painted by one of the servers. Raises Refusal, in the caller's words."""
    parts, record = parts_of(request), record_of(request)
    parts.rates.spend(caller, wish.pixels)
    try:
        ask = partial(asked, wish=wish)
        async with aclosing(painted(parts.upstream, ask, wish.timeout_s, turn, record.replayed)) as answers:
            async for part in answers:
                if isinstance(part, Progress):
                    record.stepped()
                    yield part
                else:
                    record.answered(part.meta)
                    yield replace(part, warnings=(*part.warnings, *turn.warnings))
    except ImpastoError as error:
        raise refusal_of(error, wish.names) from None


def _recorded(request: Request, wish: Wish) -> None:
    record = record_of(request)
    record.bundle, record.lanes, record.steps, record.prompt = wish.bundle, wish.lanes, wish.steps, wish.prompt
    record.adapters = tuple(map(str, wish.options.get("adapters") or ()))

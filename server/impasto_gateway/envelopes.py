"""OpenAI's envelopes of pictures: one JSON object, or an event for each preview and each picture."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from impasto_client import Progress
from impasto_gateway.asking import Answer
from impasto_gateway.errors import Refusal
from impasto_gateway.finishing import Finished
from impasto_gateway.sse import Event
from impasto_gateway.wish import Wish

# What OpenAI's clients expect to find, and what doesn't exist here: one quality, no transparency, no tokens.
SAME = {"quality": "high", "background": "opaque"}
USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


def whole(answer: Answer, pictures: Sequence[Finished], wish: Wish) -> dict[str, Any]:
    """The answer to a request that doesn't stream."""
    data = [_picture(one, wish) for one in pictures]
    return {"created": int(time.time()), "data": data, **_made(answer, pictures[0], wish)}


def completed(name: str, answer: Answer, pictures: Sequence[Finished], wish: Wish) -> Iterator[Event]:
    """The last events of a stream, one for each picture."""
    for index, one in enumerate(pictures):
        said = {"created_at": int(time.time()), "index": index, **_made(answer, one, wish)}
        yield _event(f"{name}.completed", {**_picture(one, wish), **said})


def partial(name: str, place: int, index: int, preview: bytes, progress: Progress, wish: Wish) -> Event:
    """A preview: the `place`th of its candidate, whose number is `index`."""
    said = {
        "b64_json": _text(preview),
        "created_at": int(time.time()),
        "partial_image_index": place,
        "index": index,
        "size": f"{wish.size[0]}x{wish.size[1]}",
        **SAME,
        "output_format": wish.format,
    }
    return _event(f"{name}.partial_image", {**said, **_step(progress)})


def stepped(name: str, progress: Progress) -> Event:
    """A step is done; only for who asked for `progress`, since OpenAI's clients don't know this event."""
    return _event(f"{name}.progress", _step(progress))


def failed(refusal: Refusal) -> Event:
    """An error after the stream has begun."""
    return _event("error", {"status": refusal.status, **refusal.body()})


def size_of(data: bytes) -> str:
    """WxH, from the file's header."""
    with Image.open(io.BytesIO(data)) as image:
        return f"{image.width}x{image.height}"


def _made(answer: Answer, one: Finished, wish: Wish) -> dict[str, Any]:
    """What is said of an answer, beside its pictures; `one` is one of them."""
    return {
        "size": size_of(one.data),
        **SAME,
        "output_format": wish.format,
        "usage": USAGE,
        "warnings": [*wish.warnings, *answer.warnings],
        "meta": dict(answer.meta),
    }


def _picture(one: Finished, wish: Wish) -> dict[str, Any]:
    scored = {} if one.score is None else {"score": one.score}
    return {"b64_json": _text(one.data), "revised_prompt": wish.revised, "seed": one.seed, **scored}


def _step(progress: Progress) -> dict[str, Any]:
    return {"step": progress.step, "steps": progress.steps, "eta_s": round(progress.eta_s, 3)}


def _event(name: str, data: dict[str, Any]) -> Event:
    return Event(name, {"type": name, **data})


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()

"""The size of the picture, from `size` or from `width` and `height`, and what it costs in pixels."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from impasto_client.catalogue import Bundle
from impasto_client.fields import TABLE
from impasto_gateway.errors import wrong

AUTO = "auto"
# OpenAI's, which SDKs and tools offer whatever the model.
USUAL = ("1024x1024", "1536x1024", "1024x1536", "1792x1024", "1024x1792", "512x512", "256x256")
_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")


def asked_size(values: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Width and height in pixels; None where the server shall choose. Raises Refusal."""
    said = values.get("size", AUTO)
    width, height = (bounded(values, word) for word in ("width", "height"))
    if said == AUTO:
        return width, height
    if width is not None or height is not None:
        raise wrong("size", f"got {str(said)[:32]!r} beside width or height; send one or the other")
    found = _SIZE.fullmatch(said) if isinstance(said, str) else None
    if found is None:
        raise wrong("size", f"{str(said)[:32]!r} is no size; send e.g. 512x768, or auto")
    return int(found[1]), int(found[2])


def fitted(
    asked: tuple[int | None, int | None], values: Mapping[str, Any], bundle: Bundle
) -> tuple[tuple[int | None, int | None], list[str]]:
    """The size, and a warning where it is smaller: of those that SDKs and tools offer, one that the bundle can't paint
    becomes the nearest one of the same shape that it can.
    """
    width, height = asked
    if values.get("size") not in USUAL or width is None or height is None:
        return asked, []
    found = _nearest(width, height, bundle) or (width, height)
    if found == (width, height):
        return asked, []
    return found, [f"size: {bundle.name!r} can't paint {width}x{height}; painted at {found[0]}x{found[1]}"]


def _nearest(width: int, height: int, bundle: Bundle) -> tuple[int, int] | None:
    """The largest size of this shape, and no larger, that the bundle paints; None if there is none."""
    step, most = bundle.size.multiple_of, bundle.size.max_pixels
    shape = math.gcd(width, height)
    wide, high = step * width // shape, step * height // shape
    times = min(width // wide, math.isqrt(most // (wide * high)))
    return (wide * times, high * times) if times else None


def full_size(asked: tuple[int | None, int | None], bundle: Bundle, values: Mapping[str, Any]) -> tuple[int, int]:
    """The finished picture's, with the bundle's defaults; without its second stage it is smaller.

    Raises Refusal for one that is too large for the bundle.
    """
    width, height, most = asked[0] or bundle.size.width, asked[1] or bundle.size.height, bundle.size.max_pixels
    if width * height > most:
        word = next((word for word in ("width", "height") if word in values), "size")
        fix = f"send at most {most} in all, e.g. {bundle.size.width}x{bundle.size.height}"
        raise wrong(word, f"{width} x {height} pixels is too much for {bundle.name!r}; {fix}")
    zoom = bundle.zoom if values.get("upscale_steps") == 0 else 1
    return max(1, width // zoom), max(1, height // zoom)


def bounded(values: Mapping[str, Any], word: str) -> int | None:
    """A whole number within the bounds that the table of fields has. Raises Refusal."""
    row = TABLE.by_name[word.upper()]
    assert row.low is not None
    assert row.high is not None
    return whole(values, word, int(row.low), int(row.high))


def whole(values: Mapping[str, Any], word: str, low: int, high: int) -> int | None:
    """A whole number within bounds; None where there is none. Raises Refusal."""
    value = values.get(word)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise wrong(word, f"got {said(value)}; send a whole number from {low} to {high}")
    return value


def said(value: Any) -> str:
    """A value as it was sent: a text in quotes, a number without; not all of a long one."""
    return json.dumps(value, ensure_ascii=False)[:40]

"""Pictures that come with a request: their sizes are known, and bounded, before anything is decoded."""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings

from PIL import Image

from impasto_gateway.errors import Refusal, wrong

FORMATS = ("PNG", "JPEG", "WEBP")
_DATA_URL = re.compile(r"data:image/[a-z.+-]{1,20};base64,")


def from_text(word: str, text: object) -> bytes:
    """A file's bytes, from base64 or a data URL. Raises Refusal."""
    if not isinstance(text, str):
        raise _bad(word, "it is not a picture; send the file in base64, or a form with the file")
    found = _DATA_URL.match(text)
    try:
        return base64.b64decode(text[found.end() if found else 0 :], validate=True)
    except (binascii.Error, ValueError):
        raise _bad(word, "it is not base64; send a PNG, JPEG or WebP file in base64, or a form with it") from None


def size_of(word: str, data: bytes, max_pixels: int) -> tuple[int, int]:
    """Width and height in pixels, from the file's header. Raises Refusal for another file, or a larger picture."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            warnings.simplefilter("ignore")
            width, height = image.size
    except Image.DecompressionBombError:
        raise _bad(word, f"it has too many pixels; send at most {max_pixels}") from None
    except Exception:  # PIL's readers raise whatever a damaged header leads them to
        raise _bad(word, "it is no PNG, JPEG or WebP file; send the bytes of one") from None
    if width * height > max_pixels:
        raise _bad(word, f"it has {width} x {height} pixels; send at most {max_pixels}")
    return width, height


def _bad(word: str, problem: str) -> Refusal:
    return wrong(word, problem, "invalid_image")

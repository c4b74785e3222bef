"""The metadata of picture files: it is removed before decoding, except the orientation.

Texts, thumbnails and comments are never used; colour profiles are read separately, on request. Broken or large metadata
must not make good pixels unreadable, and untrusted data must not be decompressed. So what is removed is neither parsed
nor decompressed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Literal

Order = Literal["big", "little"]
# A file without its metadata, and the EXIF orientation, 1 to 8; None where that is missing or malformed.
Bare = tuple[bytes, int | None]

_PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"acTL", b"fcTL", b"fdAT"}  # the last three belong to animations
_PNG_END = bytes(4) + b"IEND" + zlib.crc32(b"IEND").to_bytes(4, "big")
# A JPEG's application segments and comments, except JFIF's and Adobe's, which say how colours are stored.
_JPEG_TEXTS = {*range(0xE0, 0xF0), 0xFE} - {0xE0, 0xEE}
_JPEG_EXIF = 0xE1
_WEBP_TEXTS = {b"ICCP", b"EXIF", b"XMP "}
_WEBP_HEAD = 30  # the bytes of RIFF, WEBP and VP8X
_EXIF = b"Exif\0\0"
_ICC = b"ICC_PROFILE\0"
_TIFF: dict[bytes, Order] = {b"II*\0": "little", b"MM\0*": "big"}
_ORIENTATION = 0x0112
_WIDTHS = {1: 1, 3: 2, 4: 4}  # the bytes of TIFF's whole numbers, by type


def png(data: bytes, chunks: Iterable[int]) -> Bare:
    """A PNG without metadata. `chunks`: where each chunk before the end begins."""
    view, turned = memoryview(data), None
    kept = [view[:8]]
    for at in chunks:
        kind, end = data[at + 4 : at + 8], at + 12 + number(data, at, 4, "big")
        if kind in _PNG_PIXELS:
            kept.append(view[at:end])
        elif kind == b"eXIf":
            turned = turned or orientation(data[at + 8 : end - 4])
    return b"".join([*kept, _PNG_END]), turned


def jpeg(data: bytes, segments: Iterable[int]) -> Bare:
    """A JPEG without metadata. `segments`: where each segment before the first scan begins, and bytes between them."""
    view, turned, done = memoryview(data), None, 0
    kept: list[memoryview] = []
    for at in segments:
        if data[at] != 0xFF or data[at + 1] not in _JPEG_TEXTS:
            continue
        end = at + 2 + number(data, at + 2, 2, "big")
        if data[at + 1] == _JPEG_EXIF and data[at + 4 : at + 10] == _EXIF:
            turned = turned or orientation(data[at + 4 : end])
        kept.append(view[done:at])
        done = end
    return b"".join([*kept, view[done:]]) if kept else data, turned


def webp(data: bytes) -> Bare:
    """A WebP without metadata. A file that is shorter than it says is left unchanged."""
    view, size, turned = memoryview(data), 8 + number(data, 4, 4), None
    if data[12:16] != b"VP8X" or not _WEBP_HEAD <= size <= len(data):
        return data, None
    kept = []
    for at, end in _webp_chunks(data, size):
        if data[at : at + 4] == b"EXIF":
            turned = turned or orientation(data[at + 8 : end])
        if data[at : at + 4] not in _WEBP_TEXTS:
            kept.append(view[at:end])
    body = b"WEBP" + b"".join(kept)  # libwebp doesn't mind that VP8X promises more
    return b"RIFF" + len(body).to_bytes(4, "little") + body, turned


def webp_parts(data: bytes) -> Iterator[int]:
    """Where each chunk of a WebP begins."""
    return (at for at, _ in _webp_chunks(data, min(8 + number(data, 4, 4), len(data))))


def _webp_chunks(data: bytes, size: int) -> Iterator[tuple[int, int]]:
    """Where each chunk begins and ends, its padding byte included."""
    at = 12
    while at + 8 <= size:
        length = number(data, at + 4, 4)
        end = min(at + 8 + length + length % 2, size)
        yield at, end
        at = end


def png_profile(data: bytes, chunks: Iterable[int]) -> bytes | None:
    """The body of the first iCCP chunk: a name, a zero, the compression method (0) and a zlib stream."""
    found = (at for at in chunks if data[at + 4 : at + 8] == b"iCCP")
    return next((data[at + 8 : at + 8 + number(data, at, 4, "big")] for at in found), None)


def jpeg_profile(data: bytes, segments: Iterable[int]) -> bytes | None:
    """The profile's parts, joined; b"" if one is missing."""
    parts: dict[int, bytes] = {}
    count = 0
    for at in segments:
        if data[at : at + 2] == b"\xff\xe2" and data[at + 4 : at + 16] == _ICC:
            end = at + 2 + number(data, at + 2, 2, "big")
            parts[data[at + 16]], count = data[at + 18 : end], data[at + 17]
    if not parts:
        return None
    return b"".join(parts[i] for i in range(1, count + 1)) if set(parts) == {*range(1, count + 1)} else b""


def webp_profile(data: bytes) -> bytes | None:
    if data[12:16] != b"VP8X":
        return None
    chunks = _webp_chunks(data, min(8 + number(data, 4, 4), len(data)))
    return next(
        (data[at + 8 : at + 8 + number(data, at + 4, 4)] for at, _ in chunks if data[at : at + 4] == b"ICCP"), None
    )


def orientation(exif: bytes) -> int | None:
    """The EXIF orientation, 1 to 8; None where it is missing or malformed."""
    body = exif.removeprefix(_EXIF)
    order = _TIFF.get(body[:4])
    if order is None:
        return None
    first = number(body, 4, 4, order)
    count = min(number(body, first, 2, order), max(0, len(body) - first - 2) // 12)
    for at in range(first + 2, first + 2 + 12 * count, 12):
        if number(body, at, 2, order) == _ORIENTATION and number(body, at + 4, 4, order) == 1:
            value = number(body, at + 8, _WIDTHS.get(number(body, at + 2, 2, order), 0), order)
            return value if 1 <= value <= 8 else None
    return None


def number(data: bytes, start: int, length: int, order: Order = "little") -> int:
    return int.from_bytes(data[start : start + length], order)

"""EXIF's UserComment, where A1111 keeps its text in JPEG and WebP: "UNICODE", a zero, then UTF-16, big-endian."""

from __future__ import annotations

from typing import Literal

from impasto_client.carriers.notes import text_of
from impasto_client.errors import MarkError

Order = Literal["big", "little"]

_ORDERS: dict[bytes, Order] = {b"II*\0": "little", b"MM\0*": "big"}
_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286  # tags
_LONG, _UNDEFINED = 4, 7  # types
_UNICODE, _ASCII = b"UNICODE\0", b"ASCII\0\0\0"
_MAX_ENTRIES = 1024  # that are looked at in a directory


def written(text: str) -> bytes:
    """TIFF with one comment and nothing else."""
    comment = _UNICODE + text.encode("utf-16-be")
    return (
        b"MM\0*"
        + _number(8, 4)
        + _directory(_EXIF_IFD, _LONG, 1, 26)
        + (_directory(_USER_COMMENT, _UNDEFINED, len(comment), 44) + comment)
    )


def comment(tiff: bytes) -> str | None:
    """The UserComment; None without one. Raises MarkError for a malformed one; other tags are not looked at."""
    order = _ORDERS.get(tiff[:4])
    if order is None:
        return None
    inner = _entry(tiff, int.from_bytes(tiff[4:8], order), _EXIF_IFD, order)
    place = None if inner is None else _entry(tiff, inner[1], _USER_COMMENT, order)
    if place is None:
        return None
    length, at = place
    raw = tiff[at : at + length]
    if len(raw) < length or length < 8:
        raise MarkError("EXIF's UserComment doesn't fit in its file; the file is cut or damaged")
    return _text(raw[:8], raw[8:])


def _text(kind: bytes, raw: bytes) -> str | None:
    """The comment without its padding; None if nothing is left, or it is in another alphabet."""
    if kind not in (_UNICODE, _ASCII, bytes(8)):
        return None
    encoding = _utf16(raw) if kind == _UNICODE else "utf-8"
    return text_of(raw, "EXIF's UserComment", encoding).rstrip("\0 ") or None


def _utf16(raw: bytes) -> str:
    """Big-endian as A1111 writes it, unless the zeros of Latin letters lie on the other side: some tools swap them."""
    return "utf-16-le" if raw[1::2].count(0) > raw[::2].count(0) else "utf-16-be"


def _entry(tiff: bytes, at: int, tag: int, order: Order) -> tuple[int, int] | None:
    """Count and value of a tag in the directory at `at`; None if it isn't there."""
    count = min(int.from_bytes(tiff[at : at + 2], order), _MAX_ENTRIES, max(0, len(tiff) - at - 2) // 12)
    for start in range(at + 2, at + 2 + 12 * count, 12):
        if int.from_bytes(tiff[start : start + 2], order) == tag:
            return int.from_bytes(tiff[start + 4 : start + 8], order), int.from_bytes(
                tiff[start + 8 : start + 12], order
            )
    return None


def _directory(tag: int, kind: int, count: int, value: int) -> bytes:
    """A directory with one entry, and no further directory: 18 bytes."""
    return _number(1, 2) + _number(tag, 2) + _number(kind, 2) + _number(count, 4) + _number(value, 4) + _number(0, 4)


def _number(value: int, length: int) -> bytes:
    return value.to_bytes(length, "big")

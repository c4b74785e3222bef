"""Texts in a JPEG: EXIF's UserComment and XMP, each in an APP1 segment behind JFIF's."""

from __future__ import annotations

import re
from collections.abc import Iterator

from impasto_client.carriers import exif
from impasto_client.carriers.notes import MAX_PARTS, Notes, text_of
from impasto_client.errors import MarkError

SIGNATURE = b"\xff\xd8\xff"
MAX_SEGMENT = 65533  # bytes of a segment's body
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_JFIF, _APP1, _MANIFEST = 0xE0, 0xE1, 0xEB  # C2PA's manifest lies in APP11
_ADOBE = 0xEE  # says how colours are stored
_SCAN, _COMMENT = 0xDA, 0xFE
_ALONE = frozenset([0x01, *range(0xD0, 0xD8)])  # markers without a length
_FILL = re.compile(rb"\xff*(?=\xff)")  # bytes that may stand before a marker, millions of them

Segment = tuple[int, memoryview, memoryview]  # marker, body, all of it


def written(data: bytes, notes: Notes) -> bytes:
    """The file with these notes instead of its own EXIF and XMP. A manifest of C2PA goes. Raises MarkError."""
    segments, pixels = _split(data)
    kept = [(marker, whole) for marker, body, whole in segments if not _is_ours(marker, body)]
    first = [whole for marker, whole in kept[:1] if marker == _JFIF]
    rest = [whole for _, whole in kept[len(first) :]]
    return b"".join([SIGNATURE[:2], *first, *_ours(notes), *rest, pixels])


def read(data: bytes) -> Notes:
    """The file's notes; the first where there are two. Raises MarkError."""
    segments, _ = _split(data)
    bodies = [bytes(body) for marker, body, _ in segments if marker == _APP1]
    comment = next((exif.comment(body[len(_EXIF) :]) for body in bodies if body.startswith(_EXIF)), None)
    packet = next((body[len(_XMP) :] for body in bodies if body.startswith(_XMP)), None)
    xmp = None if packet is None else text_of(packet, "XMP of the JPEG")
    return Notes(None, comment, xmp, any(_is_manifest(marker, body) for marker, body, _ in segments))


def bare(data: bytes) -> bytes:
    """The file with what its pixels need, and no more. Raises MarkError."""
    segments, pixels = _split(data)
    apps = {*range(0xE0, 0xF0), _COMMENT} - {_JFIF, _ADOBE}
    return b"".join([SIGNATURE[:2], *(whole for marker, _, whole in segments if marker not in apps), pixels])


def _ours(notes: Notes) -> Iterator[bytes]:
    if notes.parameters is not None:
        yield _segment(_EXIF + exif.written(notes.parameters))
    if notes.xmp is not None:
        yield _segment(_XMP + notes.xmp.encode())


def _segment(body: bytes) -> bytes:
    if len(body) > MAX_SEGMENT:
        fix = "ask for a png or webp, or leave metadata out"
        raise MarkError(f"{len(body)} bytes of text are too long for a JPEG, which holds {MAX_SEGMENT}; {fix}")
    return b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body


def _is_ours(marker: int, body: memoryview) -> bool:
    said = bytes(body[: len(_XMP)])
    return (marker == _APP1 and said.startswith((_EXIF, _XMP))) or _is_manifest(marker, body)


def _is_manifest(marker: int, body: memoryview) -> bool:
    return marker == _MANIFEST and bytes(body[:2]) == b"JP"


def _split(data: bytes) -> tuple[list[Segment], memoryview]:
    """The segments before the first scan, and all from there. Raises MarkError unless they lie in the file."""
    view, at, found = memoryview(data), 2, list[Segment]()
    while len(found) < MAX_PARTS:
        fill = _FILL.match(data, at)
        at = fill.end() if fill else at
        if len(data) < at + 4 or data[at] != 0xFF or data[at + 1] == 0:
            raise MarkError(f"byte {at} of the JPEG begins no segment; the file is cut or damaged")
        marker = data[at + 1]
        if marker == _SCAN:
            return found, view[at:]
        length = 0 if marker in _ALONE else int.from_bytes(view[at + 2 : at + 4], "big")
        end = at + 2 + length
        if end > len(data) or (length < 2 and marker not in _ALONE):
            raise MarkError(f"the JPEG's segment at byte {at} doesn't fit in the file; it is cut or damaged")
        found.append((marker, view[at + 4 : end], view[at:end]))
        at = end
    raise MarkError(f"the JPEG has more than {MAX_PARTS} segments; save the picture again")

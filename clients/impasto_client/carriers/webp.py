"""Texts in a WebP (RFC 9649): chunks EXIF and XMP behind the pixels, in a file of the extended kind."""

from __future__ import annotations

from collections.abc import Iterator

from impasto_client.carriers import exif
from impasto_client.carriers.notes import MAX_PARTS, MAX_TEXT, Notes, text_of
from impasto_client.errors import MarkError

_HEAD, _EXIF, _XMP, _MANIFEST = b"VP8X", b"EXIF", b"XMP ", b"C2PA"
_LOSSY, _LOSSLESS, _ALPHA = b"VP8 ", b"VP8L", b"ALPH"
_HAS_EXIF, _HAS_XMP, _HAS_ALPHA = 0x08, 0x04, 0x10  # flags of VP8X

Chunk = tuple[bytes, bytes]


def is_webp(data: bytes) -> bool:
    """By the first bytes."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def written(data: bytes, notes: Notes) -> bytes:
    """The file with these notes instead of its own EXIF and XMP. A manifest of C2PA goes. Raises MarkError."""
    kept = [chunk for chunk in _chunks(data) if chunk[0] not in (_HEAD, _EXIF, _XMP, _MANIFEST)]
    ours = [*_ours(notes)]
    flags = (_HAS_EXIF if notes.parameters is not None else 0) | (_HAS_XMP if notes.xmp is not None else 0)
    return _riff([(_HEAD, _head(data, flags)), *kept, *ours])


def read(data: bytes) -> Notes:
    """The file's notes; the first where there are two. Raises MarkError."""
    found: dict[bytes, bytes] = {}
    for kind, body in _chunks(data):
        found.setdefault(kind, body)
    comment = exif.comment(found[_EXIF].removeprefix(b"Exif\0\0")) if _EXIF in found else None
    xmp = text_of(found[_XMP], "XMP of the WebP") if _XMP in found else None
    return Notes(None, comment, xmp, _MANIFEST in found)


def bare(data: bytes) -> bytes:
    """The file with its pixels, and no more. Raises MarkError."""
    return _riff([chunk for chunk in _chunks(data) if chunk[0] in (_ALPHA, _LOSSY, _LOSSLESS)])


def _ours(notes: Notes) -> Iterator[Chunk]:
    if notes.parameters is not None:
        yield _EXIF, exif.written(notes.parameters)
    if notes.xmp is not None:
        yield _XMP, notes.xmp.encode()


def _riff(chunks: list[Chunk]) -> bytes:
    parts = [kind + len(body).to_bytes(4, "little") + body + b"\0" * (len(body) % 2) for kind, body in chunks]
    too_long = next((len(body) for kind, body in chunks if kind in (_EXIF, _XMP) and len(body) > MAX_TEXT), None)
    if too_long:
        raise MarkError(f"{too_long} bytes is too long a text to write into a picture; it holds at most {MAX_TEXT}")
    whole = b"WEBP" + b"".join(parts)
    return b"RIFF" + len(whole).to_bytes(4, "little") + whole


def _head(data: bytes, flags: int) -> bytes:
    """The body of VP8X: the file's own with these flags, or a new one for a file of the simple kind."""
    (kind, body), *_ = _chunks(data)
    if kind == _HEAD and len(body) == 10:
        return bytes([body[0] & ~(_HAS_EXIF | _HAS_XMP) | flags]) + body[1:]
    if kind == _LOSSLESS and len(body) >= 5 and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")  # 14 of width, 14 of height, both less one, and one of alpha
        width, height, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
    elif kind == _LOSSY and body[3:6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(body[at : at + 2], "little") & 0x3FFF for at in (6, 8))
        width, height, alpha = width - 1, height - 1, 0
    else:
        raise MarkError("the WebP doesn't begin with a picture's header; the file is damaged")
    size = width.to_bytes(3, "little") + height.to_bytes(3, "little")
    return bytes([flags | (_HAS_ALPHA if alpha else 0), 0, 0, 0]) + size


def _chunks(data: bytes) -> Iterator[Chunk]:
    """Every chunk. Raises MarkError unless there is one, and all lie in the file."""
    end_of_all, at = 8 + int.from_bytes(data[4:8], "little"), 12
    if end_of_all > len(data) or end_of_all < 20:
        raise MarkError(f"the WebP says that it has {end_of_all} bytes, but has {len(data)}; it is cut or damaged")
    for _ in range(MAX_PARTS):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + length
        if at + 8 > end_of_all or end > end_of_all:
            raise MarkError(f"the WebP's chunk at byte {at} doesn't fit in the file; it is cut or damaged")
        yield data[at : at + 4], data[at + 8 : end]
        at = end + length % 2
        if at >= end_of_all:
            return
    raise MarkError(f"the WebP has more than {MAX_PARTS} chunks; save the picture again")

"""Texts in a PNG: iTXt `impasto`, tEXt or iTXt `parameters`, iTXt `XML:com.adobe.xmp`. They come right after IHDR."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from impasto_client.carriers.notes import MAX_PARTS, MAX_TEXT, Notes, text_of
from impasto_client.errors import MarkError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
OWN, PARAMETERS, XMP = "impasto", "parameters", "XML:com.adobe.xmp"
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_MANIFEST = b"caBX"  # C2PA's
_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}

Chunk = tuple[bytes, memoryview, memoryview]  # kind, body, all of it


def written(data: bytes, notes: Notes) -> bytes:
    """The file with these notes instead of its own. A manifest of C2PA, which would no longer fit, goes. Raises
    MarkError.
    """
    kept = [chunk for chunk in _chunks(data) if chunk[0] != _MANIFEST and _keyword(chunk) not in (OWN, PARAMETERS, XMP)]
    texts = [_itxt(OWN, notes.own), _parameters(notes.parameters), _itxt(XMP, notes.xmp)]
    head, *rest = (whole for _, _, whole in kept)
    return b"".join([SIGNATURE, head, *texts, *rest])


def read(data: bytes) -> Notes:
    """The file's notes; the first where there are two. Raises MarkError."""
    found: dict[str, str] = {}
    signed = False
    for chunk in _chunks(data):
        keyword = _keyword(chunk)
        if keyword in (OWN, PARAMETERS, XMP) and keyword not in found:
            found[keyword] = _text(chunk)
        signed = signed or chunk[0] == _MANIFEST
    return Notes(found.get(OWN), found.get(PARAMETERS), found.get(XMP), signed)


def bare(data: bytes) -> bytes:
    """The file with what its pixels need, and no more. Raises MarkError."""
    return b"".join([SIGNATURE, *(whole for kind, _, whole in _chunks(data) if kind in _PIXELS)])


def _chunks(data: bytes) -> Iterator[Chunk]:
    """Every chunk up to IEND. Raises MarkError unless the first is IHDR, and all lie in the file."""
    view, at = memoryview(data), len(SIGNATURE)
    for number in range(MAX_PARTS):
        length, kind = int.from_bytes(view[at : at + 4], "big"), bytes(view[at + 4 : at + 8])
        end = at + 12 + length
        if len(kind) < 4 or end > len(data) or (number == 0 and kind != b"IHDR"):
            raise MarkError(f"byte {at} of the PNG begins no whole chunk; the file is cut or damaged")
        yield kind, view[at + 8 : end - 4], view[at:end]
        if kind == b"IEND":
            return
        at = end
    raise MarkError(f"the PNG has more than {MAX_PARTS} chunks; save the picture again")


def _keyword(chunk: Chunk) -> str:
    kind, body, _ = chunk
    return bytes(body[:80]).partition(b"\0")[0].decode("latin-1") if kind in _TEXTS else ""


def _text(chunk: Chunk) -> str:
    """The text of a tEXt, zTXt or iTXt chunk; its checksum is compared first."""
    kind, body, whole = chunk
    keyword, _, rest = bytes(body).partition(b"\0")
    where = f"text {keyword.decode('latin-1')!r} of the PNG"
    if zlib.crc32(whole[4:-4]) != int.from_bytes(whole[-4:], "big"):
        raise MarkError(f"{where}: its checksum is wrong; the file is damaged")
    if kind == b"tEXt":
        return text_of(rest, where, "latin-1")
    if kind == b"zTXt":
        return text_of(_inflated(rest[1:], where), where, "latin-1")
    packed, text = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
    return text_of(_inflated(text, where) if packed else text, where)


def _inflated(stream: bytes, where: str) -> bytes:
    """Decompressed, and no further than MAX_TEXT."""
    machine = zlib.decompressobj()
    try:
        text = machine.decompress(stream, MAX_TEXT + 1)
    except zlib.error:
        raise MarkError(f"{where}: can't be decompressed; the file is damaged") from None
    if len(text) > MAX_TEXT:
        raise MarkError(f"{where}: is longer than the {MAX_TEXT} bytes that impasto reads")
    return text


def _parameters(text: str | None) -> bytes:
    """As Pillow, and so A1111, writes it: tEXt if Latin-1 holds it, else iTXt."""
    if text is None:
        return b""
    try:
        return _chunk(b"tEXt", PARAMETERS.encode() + b"\0" + text.encode("latin-1"))
    except UnicodeEncodeError:
        return _itxt(PARAMETERS, text)


def _itxt(keyword: str, text: str | None) -> bytes:
    return b"" if text is None else _chunk(b"iTXt", keyword.encode() + b"\0\0\0\0\0" + text.encode())


def _chunk(kind: bytes, body: bytes) -> bytes:
    if len(body) > MAX_TEXT:
        raise MarkError(f"{len(body)} bytes is too long a text to write into a picture; it holds at most {MAX_TEXT}")
    checked = kind + body
    return len(body).to_bytes(4, "big") + checked + zlib.crc32(checked).to_bytes(4, "big")

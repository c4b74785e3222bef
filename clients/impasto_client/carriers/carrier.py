"""Find the kind of a picture file, and read, write or drop its notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from impasto_client.carriers import jpeg, png, webp
from impasto_client.carriers.notes import Notes
from impasto_client.errors import MarkError


@dataclass(frozen=True)
class Carrier:
    """A kind of file. `has_own`: impasto's JSON has a chunk of its own there; elsewhere it lies in the XMP packet."""

    format: str
    has_own: bool
    read: Callable[[bytes], Notes]
    written: Callable[[bytes, Notes], bytes]
    bare: Callable[[bytes], bytes]


PNG = Carrier("png", True, png.read, png.written, png.bare)
JPEG = Carrier("jpeg", False, jpeg.read, jpeg.written, jpeg.bare)
WEBP = Carrier("webp", False, webp.read, webp.written, webp.bare)


def carrier_of(data: bytes) -> Carrier:
    """By the file's first bytes. Raises MarkError for another kind of file."""
    if data.startswith(png.SIGNATURE):
        return PNG
    if data.startswith(jpeg.SIGNATURE):
        return JPEG
    if webp.is_webp(data):
        return WEBP
    raise MarkError("this is not a PNG, JPEG or WebP file; pass one")

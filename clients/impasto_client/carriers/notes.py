"""The texts in a picture file that impasto reads and writes, and the bounds of a file that is read for them."""

from __future__ import annotations

from dataclasses import dataclass

from impasto_client.errors import MarkError

MAX_TEXT = 256 << 10  # bytes of one text
MAX_PARTS = 1 << 16  # chunks or segments of a file


@dataclass(frozen=True)
class Notes:
    """What a file says about itself; None where it says nothing.

    `own` is impasto's JSON in a chunk of its own (PNG alone has one), `parameters` is A1111's text, `xmp` a whole XMP
    packet. `signed` says that a C2PA manifest is there; nobody has checked it.
    """

    own: str | None = None
    parameters: str | None = None
    xmp: str | None = None
    signed: bool = False


def text_of(raw: bytes, where: str, encoding: str = "utf-8") -> str:
    """A text that was found in a file. Raises MarkError for one that is too long or malformed."""
    if len(raw) > MAX_TEXT:
        raise MarkError(f"{where}: {len(raw)} bytes is too long; impasto reads at most {MAX_TEXT}")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        raise MarkError(f"{where}: is not {encoding}; the file is damaged, or not of impasto") from None

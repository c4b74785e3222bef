"""Marks: what a picture's file says of how it was painted, so that it can be painted again and told from a photo.

mark = Mark.of("a red boat", {"steps": 25}, generation, generation.seed)
data = marked(generation.data, mark)
assert read(data) == mark

A file has three: impasto's own (JSON, the whole request), A1111's text `parameters`, which other tools read, and XMP,
which says that a model made it. They have no dates and no durations: the same request gives the same file. Whoever can
write a file can write these; only a signature proves something.
"""

from __future__ import annotations

from dataclasses import dataclass

from impasto_client import xmp
from impasto_client.carriers.carrier import carrier_of
from impasto_client.carriers.notes import Notes
from impasto_client.mark import Mark, Style, parsed

__all__ = ["Found", "Mark", "Style", "bare", "found_in", "marked", "parsed", "read"]


@dataclass(frozen=True)
class Found:
    """All marks of a file. `source` is the last word of XMP's DigitalSourceType; `signed` says that there is a C2PA
    manifest, which nobody has checked."""

    mark: Mark | None
    parameters: str | None
    source: str | None
    signed: bool


def marked(data: bytes, mark: Mark) -> bytes:
    """The PNG, JPEG or WebP file with this mark; one that it had is replaced. Pixels are not touched.

    Raises MarkError for a damaged file, and for a text that the format can't hold.
    """
    carrier = carrier_of(data)
    source = xmp.REPAINTED if mark.repainted else xmp.PAINTED
    own = mark.json
    packet = xmp.packet(mark.tool, source, None if carrier.has_own else own)
    return carrier.written(data, Notes(own if carrier.has_own else None, mark.parameters, packet))


def read(data: bytes) -> Mark | None:
    """impasto's mark in a file; None without one. Raises MarkError for a file or a mark that is damaged."""
    return found_in(data).mark


def found_in(data: bytes) -> Found:
    """All marks of a file. Raises MarkError."""
    carrier = carrier_of(data)
    notes = carrier.read(data)
    own = notes.own if carrier.has_own or notes.xmp is None else xmp.own_of(notes.xmp)
    source = None if notes.xmp is None else xmp.source_of(notes.xmp)
    return Found(None if own is None else parsed(own), notes.parameters, source, notes.signed)


def bare(data: bytes) -> bytes:
    """The file without any text, profile or signature: its pixels as they were encoded. Raises MarkError."""
    return carrier_of(data).bare(data)

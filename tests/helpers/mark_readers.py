"""Readers of pictures' texts that share no code with impasto: one by the formats' own words, one as A1111's users have.

`texts_of` walks chunks and segments with struct. `parameters_of` goes the way of A1111: what Pillow found in `info`, or
EXIF decoded as piexif does. `infotext` reads that text by the web UI's rules.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from dataclasses import dataclass, field
from xml.dom import minidom

from PIL import Image

XMP_IN_JPEG = b"http://ns.adobe.com/xap/1.0/\x00"


def texts_of(data: bytes) -> dict[str, str]:
    """A PNG's texts by keyword; of JPEG and WebP the XMP packet and EXIF's comment, by these names."""
    if data[1:4] == b"PNG":
        return _png_texts(data)
    blocks = _webp_blocks(data) if data[:4] == b"RIFF" else _jpeg_blocks(data)
    return {name: _comment(block) if name == "comment" else block.decode() for name, block in blocks.items()}


def _png_texts(data: bytes) -> dict[str, str]:
    found, at = dict[str, str](), 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        (crc,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert crc == zlib.crc32(kind + body)
        if kind in (b"tEXt", b"iTXt"):
            keyword, rest = body.split(b"\0", 1)
            assert keyword.decode() not in found, "there are two of them"
            if kind == b"tEXt":
                found[keyword.decode()] = rest.decode("latin-1")
            else:
                assert rest[:2] == b"\0\0", "it is not compressed"
                found[keyword.decode()] = rest[2:].split(b"\0", 2)[2].decode("utf-8")
        at += 12 + length
    return found


def _jpeg_blocks(data: bytes) -> dict[str, bytes]:
    found, at = dict[str, bytes](), 2
    while data[at + 1] != 0xDA:
        (length,) = struct.unpack(">H", data[at + 2 : at + 4])
        body = data[at + 4 : at + 2 + length]
        if data[at + 1] == 0xE1:
            name = "comment" if body.startswith(b"Exif\0\0") else "xmp"
            assert name not in found, "there are two of them"
            found[name] = body[6:] if name == "comment" else body[len(XMP_IN_JPEG) :]
        at += 2 + length
    return found


def _webp_blocks(data: bytes) -> dict[str, bytes]:
    assert struct.unpack("<I", data[4:8])[0] == len(data) - 8
    assert data[12:16] == b"VP8X"
    found, at = dict[str, bytes](), 12
    while at < len(data):
        kind, length = struct.unpack("<4sI", data[at : at + 8])
        if kind in (b"EXIF", b"XMP "):
            name = "comment" if kind == b"EXIF" else "xmp"
            assert name not in found, "there are two of them"
            found[name] = data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    assert data[20] & 0x0C == (8 if "comment" in found else 0) | (4 if "xmp" in found else 0)
    return found


def _comment(tiff: bytes) -> str:
    """UserComment of big-endian TIFF: the directory that the first directory's entry 0x8769 points to has it."""
    assert tiff[:4] == b"MM\0\x2a"

    def entries(at: int) -> dict[int, tuple[int, int, int]]:
        (count,) = struct.unpack(">H", tiff[at : at + 2])
        rows = [struct.unpack(">HHII", tiff[at + 2 + 12 * i : at + 14 + 12 * i]) for i in range(count)]
        return {tag: (kind, length, value) for tag, kind, length, value in rows}

    (first,) = struct.unpack(">I", tiff[4:8])
    _, _, second = entries(first)[0x8769]
    kind, length, value = entries(second)[0x9286]
    assert kind == 7
    raw = tiff[value : value + length]
    assert raw[:8] == b"UNICODE\0"
    return raw[8:].decode("utf-16-be")


def parameters_of(data: bytes) -> str:
    """As A1111's `read_info_from_image` finds it."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        text = image.info.get("parameters")
        if text is None:
            comment = image.getexif().get_ifd(0x8769)[0x9286]
            assert comment[:8] == b"UNICODE\0"
            text = comment[8:].decode("utf-16-be")
    assert isinstance(text, str)
    return text


@dataclass
class Infotext:
    """What the web UI fills its fields with."""

    prompt: str = ""
    negative: str = ""
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def loras(self) -> dict[str, float]:
        return {name: float(weight) for name, weight in re.findall(r"<lora:([^:>]+):([^:>]+)>", self.prompt)}


def infotext(text: str) -> Infotext:
    """By the rules of the web UI: the last line has the fields if it has three, `Negative prompt:` begins the other."""
    key_and_value = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
    found, negative, lines = Infotext(), False, text.strip().split("\n")
    if len(key_and_value.findall(lines[-1])) >= 3:
        for key, value in key_and_value.findall(lines.pop()):
            found.fields[key] = json.loads(value) if value.startswith('"') and value.endswith('"') else value
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            negative, line = True, line[len("Negative prompt:") :].strip()
        if negative:
            found.negative += ("\n" if found.negative else "") + line
        else:
            found.prompt += ("\n" if found.prompt else "") + line
    return found


def properties_of(packet: str) -> dict[str, str]:
    """An XMP packet's simple properties, by their qualified names."""
    start, end = packet.index("<x:xmpmeta"), packet.index("<?xpacket end")
    tree = minidom.parseString(packet[start:end].encode())
    (description,) = tree.getElementsByTagNameNS("http://www.w3.org/1999/02/22-rdf-syntax-ns#", "Description")
    return {
        node.tagName: "".join(child.data for child in node.childNodes if isinstance(child, minidom.Text))
        for node in description.childNodes
        if node.nodeType == node.ELEMENT_NODE
    }

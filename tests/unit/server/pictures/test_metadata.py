"""What a file carries beside its pixels keeps nobody from seeing them, however large, packed or broken it is."""

from __future__ import annotations

import os
import resource
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from impasto_server.errors import InvalidArgument
from impasto_server.pictures import metadata
from impasto_server.pictures.content import read_image, read_whole

WIDTH, HEIGHT, TURNED = 48, 32, 6
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
PACKED = zlib.compress(bytes(64 << 20), 9)  # 64 KiB that unpack to 64 MiB
LARGE = os.urandom(3 << 20)


def saved(file_format: str, **options: Any) -> bytes:
    file = BytesIO()
    Image.fromarray(PIXELS).save(file, file_format, **options)
    return file.getvalue()


PNG, JPEG, WEBP = saved("PNG"), saved("JPEG", quality=90), saved("WEBP", lossless=True, icc_profile=b"some")


def png_chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) if crc is None else crc)
    )


def in_png(*chunks: bytes) -> bytes:
    """Behind the header, and again behind the pixels."""
    return PNG[:33] + b"".join(chunks) + PNG[33:-12] + b"".join(chunks) + PNG[-12:]


def in_jpeg(marker: int, body: bytes) -> bytes:
    return JPEG[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + JPEG[2:]


def webp_chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def in_webp(*chunks: bytes) -> bytes:
    body = WEBP[8:] + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def exif(value: int, order: str = "<", kind: int = 3) -> bytes:
    """A TIFF header and one directory: the orientation behind another tag."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    number = struct.pack(order + {1: "B", 3: "H", 4: "I"}[kind], value).ljust(4, b"\0")
    entries = struct.pack(order + "HHI", 0x0100, 3, 1) + bytes(4), struct.pack(order + "HHI", 0x0112, kind, 1) + number
    return head + struct.pack(order + "H", 2) + b"".join(entries) + bytes(4)


def shown(data: bytes) -> NDArray[np.uint8]:
    return read_image(data, "IMAGE", WIDTH, HEIGHT)


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"iCCP", b"press\0\0" + PACKED),
        png_chunk(b"iCCP", b"press\0\0" + zlib.compress(LARGE)),
        png_chunk(b"iCCP", b"press\0\0broken"),
        png_chunk(b"iCCP", b"no end of its name"),
        png_chunk(b"zTXt", b"parameters\0\0" + PACKED),
        png_chunk(b"zTXt", b"parameters\0\7"),
        png_chunk(b"zTXt", b""),
        png_chunk(b"iTXt", b"parameters\0\1\0\0\0" + PACKED),
        png_chunk(b"iTXt", b"parameters\0\0\0\0\0" + LARGE),
        png_chunk(b"tEXt", b"parameters\0" + LARGE),
        png_chunk(b"tEXt", b"parameters\0" + b"a", crc=0),
        png_chunk(b"eXIf", b"no TIFF header"),
        png_chunk(b"eXIf", b""),
        png_chunk(b"eXIf", LARGE),
        png_chunk(b"gAMA", b""),
        png_chunk(b"cHRM", b"1"),
        png_chunk(b"sRGB", b""),
        png_chunk(b"pHYs", b"12"),
    ],
    ids=lambda chunk: chunk[4:8].decode(),
)
def test_a_png_is_seen(chunk: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PngImagePlugin, "_safe_zlib_decompress", lambda _: pytest.fail("something was unpacked"))
    assert np.array_equal(shown(in_png(chunk, chunk)), PIXELS)
    assert np.array_equal(read_whole(in_png(chunk), "IMAGE"), PIXELS)


def test_a_jpeg_is_seen() -> None:
    plain = shown(JPEG)
    for body in (b"", b"Exif\0\0", b"Exif\0\0no TIFF header", b"ICC_PROFILE\0\1\2" + bytes(60_000), LARGE[:65_000]):
        for marker in (*range(0xE1, 0xEE), 0xEF, 0xFE):
            assert np.array_equal(shown(in_jpeg(marker, body)), plain), (hex(marker), body[:20])
    many = JPEG[:2] + 60 * (b"\xff\xe2\xff\xff" + b"ICC_PROFILE\0\1\2".ljust(0xFFFD, b"x")) + JPEG[2:]
    assert len(many) > 3 << 20
    assert np.array_equal(shown(many), plain)


def test_how_a_jpegs_colours_are_stored_is_not_left_out() -> None:
    """Adobe's segment says so."""
    picture = Image.fromarray(PIXELS).convert("CMYK")
    file = BytesIO()
    picture.save(file, "JPEG", quality=95, subsampling=0)
    assert b"Adobe" in file.getvalue()
    expected = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(shown(file.getvalue()) - expected).mean() < 8


@pytest.mark.parametrize("kind", [b"ICCP", b"EXIF", b"XMP "])
@pytest.mark.parametrize("body", [b"", b"x", b"no TIFF header", LARGE])
def test_a_webp_is_seen(kind: bytes, body: bytes) -> None:
    assert np.array_equal(shown(in_webp(webp_chunk(kind, body))), PIXELS)
    assert np.array_equal(shown(in_webp(webp_chunk(kind, body), webp_chunk(kind, body))), PIXELS)


def test_a_webps_last_chunk_may_claim_too_much() -> None:
    assert np.array_equal(shown(in_webp(b"EXIF" + struct.pack("<I", 1 << 30))), PIXELS)
    with pytest.raises(InvalidArgument, match="can't be read as WebP"):
        shown(in_webp(webp_chunk(b"EXIF", bytes(100)))[:-50])


def test_a_bomb_costs_no_memory() -> None:
    bomb = in_png(png_chunk(b"zTXt", b"a\0\0" + 8 * PACKED), png_chunk(b"iCCP", b"a\0\0" + PACKED))
    shown(bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert np.array_equal(shown(bomb), PIXELS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB


# How it is turned


@pytest.mark.parametrize(
    "turned",
    [
        lambda body: in_png(png_chunk(b"tEXt", b"a\0b"), png_chunk(b"eXIf", body)),
        lambda body: PNG[:-12] + png_chunk(b"eXIf", body) + PNG[-12:],
        lambda body: in_webp(webp_chunk(b"EXIF", body)),
        lambda body: in_webp(webp_chunk(b"EXIF", b"Exif\0\0" + body)),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
def test_exif_is_still_honoured(turned: Callable[[bytes], bytes], order: str, kind: int) -> None:
    found = read_whole(turned(exif(TURNED, order, kind)), "IMAGE")
    assert np.array_equal(found, np.rot90(PIXELS, -1))


def test_a_jpegs_exif_is_still_honoured_beside_what_is_broken() -> None:
    turned = in_jpeg(0xE1, b"Exif\0\0" + exif(TURNED))
    broken = turned[:2] + b"\xff\xe1\0\x0cExif\0\0nono" + b"\xff\xe1\0\x06http" + turned[2:]
    for data in (turned, broken):
        assert np.array_equal(read_whole(data, "IMAGE"), np.rot90(read_whole(JPEG, "IMAGE"), -1))


@pytest.mark.parametrize(
    ("body", "found"),
    [
        *[(exif(value), value) for value in range(1, 9)],
        (b"Exif\0\0" + exif(3, ">"), 3),
        (exif(5, kind=1), 5),
        (exif(0), None),
        (exif(9), None),
        (b"", None),
        (b"II*\0", None),
        (b"II*\0\xff\xff\xff\xff", None),
        (exif(6)[:24], None),
        (exif(6).replace(b"\x12\x01\x03", b"\x12\x01\x02"), None),  # a text
        (exif(6)[:8] + b"\xff\xff" + exif(6)[10:], 6),  # more entries than there are
    ],
)
def test_orientation(body: bytes, found: int | None) -> None:
    assert metadata.orientation(body) == found


def test_a_file_without_all_that_is_left_as_it_is() -> None:
    segments = [2]
    assert metadata.jpeg(JPEG, segments)[0] is JPEG
    simple = saved("WEBP")
    assert metadata.webp(simple)[0] is simple
    assert metadata.webp(b"RIFF")[0] == b"RIFF"

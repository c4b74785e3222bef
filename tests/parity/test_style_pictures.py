"""A picture whose style is kept is prepared as the server prepares it: turned, in its profile's colours, onto white."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from impasto_export.feedforward import pictures
from impasto_server.pictures.content import read_photo

SIZE = 32
COLOURS = np.kron(np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8), np.ones((9, 9, 1), np.uint8))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exchanged() -> bytes:
    """sRGB, but that what is called red is its blue, and the other way round."""
    names = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}
    tags = bytearray(SRGB)
    for at in range(132, 132 + 12 * int.from_bytes(SRGB[128:132], "big"), 12):
        tags[at : at + 4] = names.get(bytes(tags[at : at + 4]), tags[at : at + 4])
    return bytes(tags)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def translucent() -> Image.Image:
    picture = Image.fromarray(COLOURS).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    return picture


FILES = {
    "plain.png": (Image.fromarray(COLOURS), {}),
    "plain.jpg": (Image.fromarray(COLOURS), {"quality": 95}),
    "turned.jpg": (Image.fromarray(COLOURS), {"exif": turned(6)}),
    "mirrored.webp": (Image.fromarray(COLOURS), {"exif": turned(5), "lossless": True}),
    "coloured.png": (Image.fromarray(COLOURS), {"icc_profile": exchanged()}),
    "coloured and turned.jpg": (Image.fromarray(COLOURS), {"icc_profile": exchanged(), "exif": turned(8)}),
    "a useless profile.png": (Image.fromarray(COLOURS), {"icc_profile": b"none" * 50}),
    "translucent.png": (translucent(), {"icc_profile": exchanged()}),
    "grey.png": (Image.fromarray(COLOURS[..., 0]), {}),
    "pressed.jpg": (Image.fromarray(COLOURS).convert("CMYK"), {}),
    "palette.png": (Image.fromarray(COLOURS).quantize(32), {}),
}


@pytest.mark.parametrize("name", FILES)
def test_a_picture_is_the_servers(name: str, tmp_path: Path) -> None:
    picture, options = FILES[name]
    picture.save(tmp_path / name, **options)  # type: ignore[arg-type]
    expected, _ = read_photo((tmp_path / name).read_bytes(), "STYLE_IMAGES", (SIZE, SIZE))
    found = pictures.square(tmp_path / name, SIZE)
    assert found.shape == expected.shape
    # A level of rounding lies between turning before and behind a resize.
    assert np.abs(found.astype(int) - expected).max() <= 1

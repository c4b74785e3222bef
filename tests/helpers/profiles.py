"""Colour profiles for pictures (ICC)."""

from __future__ import annotations

from PIL import ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exchanged() -> bytes:
    """sRGB with red and blue exchanged."""
    names = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}
    tags = bytearray(SRGB)
    for at in range(132, 132 + 12 * int.from_bytes(SRGB[128:132], "big"), 12):
        tags[at : at + 4] = names.get(bytes(tags[at : at + 4]), tags[at : at + 4])
    return bytes(tags)

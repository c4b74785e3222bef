"""Colour profiles in pictures (ICC.1): conversion to sRGB.

They are untrusted. A profile that is larger than MAX_BYTES, unreadable, or for another colour space than the file's is
not used, and the caller is told.
"""

from __future__ import annotations

import zlib
from io import BytesIO

from PIL import Image, ImageCms

from impasto_server.strangers import Unfit

MAX_BYTES = 4 << 20  # of an unpacked profile; those of printing presses have one or two million
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
_SRGB = ImageCms.createProfile("sRGB")
# A file's mode → its colour space in a profile → the mode that it is transformed in.
_SPACES = {"1": "GRAY", "L": "GRAY", "LA": "GRAY", "CMYK": "CMYK"}
_MODES = {"GRAY": "L", "CMYK": "CMYK", "RGB": "RGB"}


def unpacked(profile: bytes, kind: str) -> bytes:
    """The profile as it lies in a file of a `kind` (PNG, JPEG or WebP), decompressed. Raises Unfit."""
    if kind == "PNG":
        profile = _inflated(profile.partition(b"\0")[2][1:])
    if len(profile) > MAX_BYTES:
        raise Unfit(f"has more than {MAX_BYTES} bytes")
    return profile


def to_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """The picture in sRGB: RGB, or RGBA if it has transparency. Raises Unfit for a profile that can't be used."""
    space = _SPACES.get(picture.mode, "RGB")
    try:
        found = ImageCms.ImageCmsProfile(BytesIO(profile))
        said = found.profile.xcolor_space.strip()
        if said != space:
            raise Unfit(f"is for {said}, but the file is {space}")
        mode = _MODES[space]
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        transform = ImageCms.buildTransform(found, _SRGB, mode, "RGB", intent, _FLAGS)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise Unfit(str(error) if isinstance(error, Unfit) else "can't be read") from None
    colours = picture if picture.mode == mode else picture.convert(mode)
    alpha = picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else None
    painted = ImageCms.applyTransform(colours, transform)
    assert painted is not None, "the picture isn't changed in place"
    if alpha is not None:
        painted.putalpha(alpha)
    return painted


def _inflated(stream: bytes) -> bytes:
    """The stream decompressed, up to one byte more than a profile may have."""
    try:
        return zlib.decompressobj().decompress(stream, MAX_BYTES + 1)
    except zlib.error:
        raise Unfit("can't be unpacked") from None

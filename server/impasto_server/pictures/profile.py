"""Colour profiles that pictures carry (ICC.1): the same colours as sRGB's numbers.

They come from strangers: one of more than MAX_BYTES, one that can't be read, or for other colours than the file has, is
not used, and whoever asked is told.
"""

from __future__ import annotations

import zlib
from io import BytesIO

from PIL import Image, ImageCms

from impasto_server.strangers import Unfit

MAX_BYTES = 4 << 20  # of one, unpacked; those of presses have about one or two million
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
_SRGB = ImageCms.createProfile("sRGB")
# Of a file's mode, what its colours are in a profile, and the mode that they are transformed in.
_SPACES = {"1": "GRAY", "L": "GRAY", "LA": "GRAY", "CMYK": "CMYK"}
_MODES = {"GRAY": "L", "CMYK": "CMYK", "RGB": "RGB"}


def unpacked(profile: bytes, kind: str) -> bytes:
    """As a PNG file has it, or a JPEG or WebP one, the `kind`. Raises Unfit."""
    if kind == "PNG":
        profile = _inflated(profile.partition(b"\0")[2][1:])
    if len(profile) > MAX_BYTES:
        raise Unfit(f"has more than {MAX_BYTES} bytes")
    return profile


def to_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """RGB, or RGBA where there is transparency. Raises Unfit for a profile that can't be used."""
    space = _SPACES.get(picture.mode, "RGB")
    try:
        found = ImageCms.ImageCmsProfile(BytesIO(profile))
        said = found.profile.xcolor_space.strip()
        if said != space:
            raise Unfit(f"is for {said}, and the file is {space}")
        mode = _MODES[space]
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        transform = ImageCms.buildTransform(found, _SRGB, mode, "RGB", intent, _FLAGS)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise Unfit(str(error) if isinstance(error, Unfit) else "can't be read") from None
    colours = picture if picture.mode == mode else picture.convert(mode)
    alpha = picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else None
    painted = ImageCms.applyTransform(colours, transform)
    assert painted is not None, "it isn't changed in place"
    if alpha is not None:
        painted.putalpha(alpha)
    return painted


def _inflated(stream: bytes) -> bytes:
    """One byte more than a profile may have, at the most."""
    try:
        return zlib.decompressobj().decompress(stream, MAX_BYTES + 1)
    except zlib.error:
        raise Unfit("can't be unpacked") from None

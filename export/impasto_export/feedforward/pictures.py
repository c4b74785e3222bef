"""Prepare a style's picture for a predictor: the centre square, RGB, converted from its colour profile to sRGB.

The server reads STYLE_IMAGES in the same way, so a stored style equals the style of a request with that picture.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from impasto_export.errors import AdapterError

KINDS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 50_000_000
SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}


def square(place: Path, size: int) -> NDArray[np.uint8]:
    """The picture's pixels [S, S, 3]. Raises AdapterError for a file that is not a still picture, or is too large."""
    try:
        with Image.open(place, formats=KINDS) as file:
            if getattr(file, "n_frames", 1) > 1:
                raise AdapterError(f"{place} is animated; give a still picture")
            if file.width * file.height > MAX_PIXELS:
                raise AdapterError(f"{place} has {file.width} x {file.height} pixels; up to {MAX_PIXELS} are read")
            return _square(file, size)
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        known = ", ".join(KINDS)
        raise AdapterError(f"{place} cannot be read as a picture ({error}); {known} are read") from None


def _square(file: Image.Image, size: int) -> NDArray[np.uint8]:
    profile, orientation = file.info.get("icc_profile"), file.getexif()
    file.draft(None, (2 * size, 2 * size))
    picture = _coloured(file, profile) if profile else _plain(file)
    fitted = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
    fitted.getexif().update(orientation)
    turned = ImageOps.exif_transpose(fitted)
    if turned.mode == "RGBA":
        turned = Image.alpha_composite(Image.new("RGBA", turned.size, "white"), turned)
    return np.asarray(turned.convert("RGB"))


def _plain(file: Image.Image) -> Image.Image:
    return file.convert("RGBA" if file.has_transparency_data else "RGB")


def _coloured(file: Image.Image, profile: bytes) -> Image.Image:
    """The picture in sRGB; a profile that can't be used is ignored, as in the server and in all viewers."""
    mode = {"1": "L", "LA": "L", "CMYK": "CMYK"}.get(file.mode, "L" if file.mode == "L" else "RGB")
    try:
        found = ImageCms.ImageCmsProfile(BytesIO(profile))
        if found.profile.xcolor_space.strip() != SPACES[mode]:
            return _plain(file)
        intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        change = ImageCms.buildTransform(found, ImageCms.createProfile("sRGB"), mode, "RGB", intent, flags)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return _plain(file)
    painted = ImageCms.applyTransform(file.convert(mode), change)
    assert painted is not None, "it isn't changed in place"
    if file.has_transparency_data:
        painted.putalpha(file.convert("RGBA").getchannel("A"))
    return painted

"""Pictures to learn from: read from files, looked at before anything is trained, known by a digest of their pixels."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from impasto_fit.errors import PictureError

Picture = NDArray[np.uint8]  # [H, W, 3], RGB
MOST = 200
MOST_PIXELS = 64 << 20
SMALLEST = 16  # px, of the shorter side
FLAT = 1.0  # of 255: a picture whose channels all deviate by less has one colour


def read(source: Path | bytes) -> Picture:
    """The picture of a file, or of its bytes: upright as its EXIF says, on white where it is transparent.

    Raises:
        PictureError: it is missing, no picture, cut short, or too large.
    """
    name = "the picture" if isinstance(source, bytes) else str(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about large pictures, which are refused here
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                if image.width * image.height > MOST_PIXELS:
                    problem = f"has {image.width}x{image.height} pixels, of at most {MOST_PIXELS >> 20} million"
                    raise PictureError(f"{name}: {problem}; make it smaller")
                upright = ImageOps.exif_transpose(image).convert("RGBA")
    except FileNotFoundError:
        raise PictureError(f"{name}: there is no such file; give a picture") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PictureError(f"{name}: can't be read as a picture ({error}); save it as PNG or JPEG") from None
    white = Image.new("RGBA", upright.size, "white")
    return np.asarray(Image.alpha_composite(white, upright).convert("RGB"))


def check(pictures: Sequence[Picture], most: int = MOST) -> None:
    """
    Raises:
        PictureError: there are none, too many, or one that shows nothing.
    """
    if not pictures:
        raise PictureError("pictures: got none; give at least one")
    if len(pictures) > most:
        raise PictureError(f"pictures: got {len(pictures)}, of at most {most}; choose the best of them")
    for place, picture in enumerate(pictures, 1):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise PictureError(f"picture {place}: is {picture.dtype} {list(picture.shape)}; uint8 [H, W, 3] is needed")
        if min(picture.shape[:2]) < SMALLEST:
            size = f"{picture.shape[1]}x{picture.shape[0]}"
            raise PictureError(f"picture {place}: is {size}; give one of at least {SMALLEST} pixels a side")
        if picture.std((0, 1)).max() < FLAT:
            raise PictureError(f"picture {place}: has one colour, which is no style; give a picture that shows one")


def unit(picture: Picture) -> Tensor:
    """uint8 [H, W, 3] to float [1, 3, H, W] in 0..1."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def picture_of(pixels: Tensor) -> Picture:
    """float [3, H, W] in 0..1 to uint8 [H, W, 3]."""
    return np.asarray((pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def digest(picture: Picture) -> str:
    """sha256 of its size and pixels."""
    return hashlib.sha256(repr(picture.shape).encode() + np.ascontiguousarray(picture).tobytes()).hexdigest()

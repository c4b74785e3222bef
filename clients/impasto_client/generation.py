"""What comes back for a request: one Generation, and before it, where it is streamed, a Progress after each step."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from PIL import Image


@dataclass(frozen=True)
class Timings:
    """Where the server spent the time, in milliseconds; `total_ms` is measured, not the sum of the others."""

    queue_ms: float
    encode_ms: float
    denoise_ms: float
    decode_ms: float
    total_ms: float


@dataclass(frozen=True)
class Progress:
    """After a step: `step` of `steps` are done, and the picture is expected in `eta_s` seconds.

    `preview` is a PNG of the picture so far, a few pixels wide (the latent's size), or None where none was asked for.
    """

    step: int
    steps: int
    eta_s: float
    preview: bytes | None = field(default=None, repr=False)

    @cached_property
    def image(self) -> Image.Image | None:
        """The preview, decoded at first use. Raises PIL.UnidentifiedImageError or OSError when it is no picture."""
        return None if self.preview is None else _decoded(self.preview)


@dataclass(frozen=True)
class Generation:
    """One picture.

    `data` is the encoded file as the server sent it. `seed` is the seed that was used, also when none was asked for.
    `warnings` say where the server did something other than what one might expect, e.g. cut a long prompt.
    `meta` is the server's whole account: engine, precision, bundle digest, adapters with digests, resolved settings.
    """

    data: bytes = field(repr=False)
    seed: int
    timings: Timings
    warnings: tuple[str, ...]
    meta: Mapping[str, object] = field(repr=False)

    @cached_property
    def image(self) -> Image.Image:
        """The picture, decoded at first use. Raises PIL.UnidentifiedImageError or OSError when `data` is no picture."""
        return _decoded(self.data)


def _decoded(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture

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

    `previews` are PNGs of the candidates so far, a few pixels wide (the latent's size), in the order of their seeds, or
    none where none were asked for.
    """

    step: int
    steps: int
    eta_s: float
    previews: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def preview(self) -> bytes | None:
        """The first candidate's preview."""
        return self.previews[0] if self.previews else None

    @cached_property
    def image(self) -> Image.Image | None:
        """The preview, decoded at first use. Raises PIL.UnidentifiedImageError or OSError when it is no picture."""
        return None if self.preview is None else _decoded(self.preview)


@dataclass(frozen=True)
class Candidate:
    """One of the pictures that a request asked for.

    `data` is the encoded file as the server sent it, `seed` the seed that paints it alone. `score` is the cosine by
    which the candidates were sorted, or None where nobody asked for that.
    """

    data: bytes = field(repr=False)
    seed: int
    score: float | None = None

    @cached_property
    def image(self) -> Image.Image:
        """The picture, decoded at first use. Raises PIL.UnidentifiedImageError or OSError when `data` is no picture."""
        return _decoded(self.data)


@dataclass(frozen=True)
class Generation:
    """One picture, or several of which the first is meant where one is spoken of.

    `candidates` are as many as were asked for, at least one: the best first where they were scored, else in the order
    of their seeds.
    `warnings` say where the server did something other than what one might expect, e.g. cut a long prompt.
    `meta` is the server's whole account: engine, precision, bundle digest, adapters with digests, resolved settings.
    """

    candidates: tuple[Candidate, ...]
    timings: Timings
    warnings: tuple[str, ...]
    meta: Mapping[str, object] = field(repr=False)

    @property
    def data(self) -> bytes:
        """The encoded file as the server sent it."""
        return self.candidates[0].data

    @property
    def seed(self) -> int:
        """The seed that was used, also when none was asked for."""
        return self.candidates[0].seed

    @property
    def image(self) -> Image.Image:
        """The picture, decoded at first use. Raises PIL.UnidentifiedImageError or OSError when `data` is no picture."""
        return self.candidates[0].image


def _decoded(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture

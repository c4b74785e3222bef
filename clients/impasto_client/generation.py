"""The answers to a request: one Generation, and before it, when streamed, a Progress after each step."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from PIL import Image


@dataclass(frozen=True)
class Timings:
    """How the server spent the time, in milliseconds; `total_ms` is measured, not the sum of the others."""

    queue_ms: float
    encode_ms: float
    denoise_ms: float
    decode_ms: float
    total_ms: float


@dataclass(frozen=True)
class Progress:
    """The state after a step: `step` of `steps` are done, and the picture is expected in `eta_s` seconds.

    `previews` are small PNGs of the candidates so far (of the latent's size), in the order of their seeds; empty if
    none were requested.
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
        """The preview, decoded at first use. Raises PIL.UnidentifiedImageError or OSError when it can't be decoded."""
        return None if self.preview is None else _decoded(self.preview)


@dataclass(frozen=True)
class Candidate:
    """One of the pictures of a request.

    `data` is the encoded file as the server sent it. A request with this `seed` alone paints the same. `score` is the
    cosine by which the candidates were sorted, or None if they weren't.
    """

    data: bytes = field(repr=False)
    seed: int
    score: float | None = None

    @cached_property
    def image(self) -> Image.Image:
        """The picture, decoded at first use. Raises PIL.UnidentifiedImageError or OSError when it can't be decoded."""
        return _decoded(self.data)


@dataclass(frozen=True)
class Generation:
    """The answer to a request: one picture, or several; `data`, `seed` and `image` are those of the first.

    `candidates` are all of them, at least one: the best first if they were scored, else in the order of their seeds.
    `warnings` say where the server did something unexpected, e.g. cut a long prompt.
    `meta` is the server's whole report: engine, precision, bundle digest, adapters with digests, resolved settings.
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
        """The seed that was used, also when none was given."""
        return self.candidates[0].seed

    @property
    def image(self) -> Image.Image:
        """The picture, decoded at first use. Raises PIL.UnidentifiedImageError or OSError when it can't be decoded."""
        return self.candidates[0].image


def _decoded(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture

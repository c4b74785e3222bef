"""The family itself: a photo is sent through one graph, once, and comes out in the shades of its adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.form import Form
from impasto_server.adapters.seat import Seat
from impasto_server.backbone import Backbone, Feeds, Row, samples
from impasto_server.bundle import Manifest
from impasto_server.errors import InvalidArgument
from impasto_server.families.content import content
from impasto_server.families.family import Kind, Parts
from impasto_server.guidance import Guidance, Lane, Mix
from impasto_server.offer import FamilyOffer
from impasto_server.pictures.content import pixels_to_model
from impasto_server.pictures.image import encode, to_uint8
from impasto_server.request import Request
from impasto_server.steps import BASE, Ask, Steps
from impasto_server.turns import Work
from impasto_server.values import WORDS
from impasto_server.worn import Worn

Pixels = NDArray[np.float32]


class TintManifest(Manifest):
    """Its sampler makes one step."""

    schedulers: ClassVar[tuple[str, ...]] = ("once",)

    family: Literal["tint"]

    @property
    def backbones(self) -> Mapping[str, str]:
        return {BASE: "tint"}


@dataclass(frozen=True)
class Tinted:
    """One lane, under the request's mix, of which there is nothing more to know."""

    mix: Mix
    warnings: tuple[str, ...] = ()

    @property
    def guidance(self) -> Mapping[str, Guidance]:
        return {BASE: Guidance.over((1, 1, Lane(mix=self.mix)))}

    @property
    def told(self) -> Mapping[str, object]:
        return {}

    def gather(self) -> Work[None]:
        yield from ()

    def contexts(self, seats: Mapping[Mix, Seat]) -> Work[Mapping[str, Sequence[Any]]]:
        yield from ()
        return {BASE: (None,)}


class Tint:
    """See Family. A sample is pixels, RGB [3, H, W] in [-1, 1]."""

    def __init__(self, parts: Parts) -> None:
        self._size = parts.bundle.manifest.image
        self.backbones: Mapping[str, Backbone] = {BASE: Backbone(parts.graphs.every("tint"), _feeds)}

    def example(self, stage: str) -> Row:
        return Row(Ask(np.zeros((3, self._size.height, self._size.width), np.float32), 0.0, 0, 1), None, Seat())

    def warm(self, lanes: int) -> None:
        """There is nothing beside the backbone."""

    def room(self, request: Request) -> int:
        return 0

    def read(self, request: Request) -> Work[Pixels | None]:
        pixels = yield from content(request)
        return None if pixels is None else pixels_to_model(pixels)

    def condition(self, request: Request, worn: Worn, seen: Pixels | None) -> Work[Tinted]:
        yield from ()
        if seen is None:
            raise InvalidArgument("IMAGE", "is missing", "pass the photo that is to be tinted")
        return Tinted(worn.mixes.full)

    def begin(self, request: Request, seed: int, seen: Pixels, contexts: Mapping[str, Sequence[None]]) -> Steps:
        return (yield Ask(seen, 0.0, 0, 1))

    def decode(self, sample: Pixels) -> NDArray[np.uint8]:
        return to_uint8(sample)

    def preview(self, sample: Pixels) -> bytes:
        return encode(self.decode(sample), "png")


def _feeds(rows: Sequence[Row]) -> Feeds:
    return {"image": samples(rows)}


# Its own form of adapter: one colour that is added, of which the neutral one is none.
SHADE = Form(
    units=lambda site: {"shade": (site.in_features,)},
    stored=lambda site, rank: {"shade": (site.in_features,)},
    read=lambda tensors, header: {"shade": tensors["shade"][None]},
    rank=1,
)
# It has no words, and content cuts none of its step off.
OFFER = FamilyOffer("tint", ("once",), {"SCHEDULER": "once", "STEPS": 1}, unknown=WORDS, spread=("once",))
TINT = Kind(TintManifest, Tint, OFFER)

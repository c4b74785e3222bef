"""The family of feed-forward style nets: one pass, in which each row of the batch carries its style's vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.adapter import Adapter, Delta, Patch
from impasto_server.adapters.seat import Seat
from impasto_server.backbone import Backbone, Feeds, Row
from impasto_server.bundle import Bundle
from impasto_server.errors import InvalidArgument
from impasto_server.families.family import Parts
from impasto_server.families.feedforward.colours import Painted
from impasto_server.families.feedforward.frame import Frame
from impasto_server.families.feedforward.manifest import TRANSFORM, VECTOR, FeedforwardManifest
from impasto_server.families.feedforward.paint import channels_first, paint
from impasto_server.families.feedforward.photo import Bounds, Photo, Sizes, read
from impasto_server.families.feedforward.predictor import Guess, Predictor
from impasto_server.families.feedforward.styles import Shares, Style, shares_of, vector_in
from impasto_server.families.feedforward.tiles import WHOLE, Tiles
from impasto_server.families.feedforward.whole import Whole
from impasto_server.guidance import Guidance, Lane, Mix
from impasto_server.request import Request
from impasto_server.steps import BASE, Ask, Steps
from impasto_server.turns import Work
from impasto_server.worn import Worn

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """The photo, the vectors of the style pictures, and the photo's `own` vector if weak styles fade to it."""

    photo: Photo
    predicted: tuple[Array, ...] = ()
    own: Array | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Worked:
    """The conditions: a lane for each style if each has its own mask, else one lane; the same for every stage."""

    stages: tuple[str, ...]
    styles: tuple[Style, ...]
    mix: Mix
    warnings: tuple[str, ...] = ()

    @property
    def guidance(self) -> Mapping[str, Guidance]:
        ones = (1.0,) * len(self.styles)
        return dict.fromkeys(self.stages, Guidance((Lane(mix=self.mix),) * len(self.styles), ones, ones))

    @property
    def told(self) -> Mapping[str, object]:
        return {}

    def gather(self) -> Work[None]:
        yield from ()

    def contexts(self, seats: Mapping[Mix, Seat]) -> Work[Mapping[str, Sequence[Any]]]:
        yield from ()
        return dict.fromkeys(self.stages, self.styles)


class Feedforward:
    """The feed-forward family; see Family for the methods. A sample is a picture with its frame, RGB uint8 [3, H, W]; a
    row's context is its Style.
    """

    def __init__(self, parts: Parts) -> None:
        manifest = parts.bundle.manifest
        assert isinstance(manifest, FeedforwardManifest)
        self._manifest = manifest
        self._predictor = Predictor(manifest, parts.graphs) if manifest.predicts else None
        self._neutral = _neutral(parts.bundle, manifest)
        self._frame = Frame(manifest.border, manifest.image.multiple_of)
        transform = Whole(parts.graphs.every(TRANSFORM), _feeds)
        self._tiles = Tiles.of(parts, manifest, transform.release)
        self.backbones: Mapping[str, Backbone] = {
            BASE: transform,
            **({} if self._tiles is None else self._tiles.backbones),
        }
        most = manifest.most_pixels
        tiled = WHOLE if self._tiles is None else self._tiles.most_pixels
        self._bounds = Bounds(most, min(manifest.image.max_pixels, tiled))

    def example(self, stage: str) -> Row:
        if stage != BASE:
            assert self._tiles is not None, "only tiles have other stages"
            return self._tiles.example(stage)
        size, numbers = self._manifest.image, self._manifest.vectors
        vector = self._neutral if self._neutral is not None else np.zeros(numbers, np.float32) if numbers else None
        sample = channels_first(self._frame.around(np.zeros((size.height, size.width, 3), np.uint8)))
        return Row(Ask(sample, 0.0, 0, 1), Style(vector), Seat())

    def warm(self, lanes: int) -> None:
        if self._predictor is not None:
            self._predictor.warm()

    def room(self, request: Request) -> int:
        """Bytes of the photo, the masks, the canvas with and without frame, the lanes' pictures, the net's layers."""
        sizes = Sizes.of(request, self._bounds)
        (width, height), (across, down) = sizes.painting, sizes.canvas
        masks, lanes = len(request.own["MASKS"]), len(self._shares(request))
        pictures = (3 + masks) * width * height + 3 * (2 + lanes) * across * down
        return pictures + (0 if self._tiles is None else self._tiles.nbytes(down, across))

    def read(self, request: Request) -> Work[Seen]:
        shares = self._shares(request)
        photo = yield from read(request, self._bounds)
        guesses, own = list[Guess](), None
        if self._predictor is not None:
            for data in request.own["STYLE_IMAGES"]:
                guesses.append((yield from self._predictor.of_file(data, "STYLE_IMAGES")))
            if self._manifest.weakened == "content" and any(one.rest for one in shares):
                own = (yield from self._predictor.of_photo(photo.pixels, request.content.image or b"")).vector
        problems = dict.fromkeys([photo.problem, *(guess.problem for guess in guesses)])
        return Seen(photo, tuple(guess.vector for guess in guesses), own, tuple(filter(None, problems)))

    def condition(self, request: Request, worn: Worn, seen: Seen) -> Work[Worked]:
        yield from ()
        if not self._manifest.vectors:
            return Worked(tuple(self.backbones), (Style(),), worn.mixes.full, seen.problems)
        vectors = [*_named(request, worn), *seen.predicted]
        rest = seen.own if self._manifest.weakened == "content" else self._neutral
        styles = tuple(Style(shares.mixed(vectors, rest)) for shares in self._shares(request))
        return Worked(tuple(self.backbones), styles, Mix(), seen.problems)

    def begin(self, request: Request, seed: int, seen: Seen, contexts: Mapping[str, Sequence[Style]]) -> Steps:
        lanes = yield from paint(seen.photo.canvas, contexts[BASE], self._frame, self._tiles)
        in_pixels = self._manifest.weakened == "pixels"
        rests = tuple(shares.rest if in_pixels else 0.0 for shares in self._shares(request))
        return Painted(lanes, seen.photo, rests, request.own["PRESERVE_COLOR"])

    def decode(self, sample: Painted) -> NDArray[np.uint8]:
        return sample.finished()

    def preview(self, sample: NDArray[np.uint8]) -> bytes:
        raise AssertionError("the family doesn't know PREVIEW_EVERY: nothing can be seen before a pass ends")

    def _shares(self, request: Request) -> tuple[Shares, ...]:
        """The shares of each lane. Raises InvalidArgument for unsuitable weights, and where no style is named."""
        named = request.styles.adapter_names
        if not self._manifest.vectors:
            return (Shares((), request.content.strength),)
        if not named and not request.own["STYLE_IMAGES"]:
            problem = f"is missing, and {self._manifest.name!r} has no style of its own"
            raise InvalidArgument("ADAPTER_NAMES", problem, "name a style that `impasto models` lists")
        return shares_of(request)


def _named(request: Request, worn: Worn) -> list[Array | None]:
    """The vectors of ADAPTER_NAMES; None for one of weight 0, which isn't loaded."""
    listed = iter(worn.listed)
    return [_vector(next(listed)[0], name) if weight else None for name, weight in request.styles.adapters]


def _vector(patch: Patch, name: str) -> Array:
    """The vector of an adapter. Raises InvalidArgument if it isn't one."""
    if isinstance(patch, Delta):
        problem = f"{name!r} changes weights by {', '.join(patch.forms)}, but this bundle's styles are vectors"
        raise InvalidArgument("ADAPTER_NAMES", problem, "name a style that `impasto models` lists")
    assert isinstance(patch, Adapter), "embeddings are refused in adapter fields"
    (site,) = patch.factors[TRANSFORM].values()
    vector: Array = site[VECTOR][0]
    return vector


def _neutral(bundle: Bundle, manifest: FeedforwardManifest) -> Array | None:
    """The neutral vector, if any. Raises SetupError for a file that isn't what the manifest says."""
    if manifest.neutral is None:
        return None
    return vector_in(bundle, manifest.neutral.file, "neutral", manifest.vectors)


def _feeds(rows: Sequence[Row]) -> Feeds:
    pictures = np.empty((len(rows), *rows[0].ask.sample.shape), np.float32)
    for picture, row in zip(pictures, rows, strict=True):
        np.divide(row.ask.sample, np.float32(255), out=picture)
    if rows[0].context.vector is None:
        return {"picture": pictures}
    return {"picture": pictures, "style": np.stack([row.context.vector for row in rows])}

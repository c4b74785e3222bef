"""The family of masked transformers: aMUSEd's UViT over a VQ model's tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.seat import Seat
from impasto_server.backbone import Backbone, Feeds, Row, samples
from impasto_server.families.content import content
from impasto_server.families.family import Parts
from impasto_server.families.masked.manifest import MaskedManifest
from impasto_server.families.masked.maskgit import ANNEALS, Canvas, Codes, Masks, decode, masked
from impasto_server.families.masked.offer import TEMPERATURE
from impasto_server.families.spoken import Speech, Spoken, hidden, pooled
from impasto_server.pictures.content import pixels_to_model
from impasto_server.pictures.image import encode, to_uint8
from impasto_server.request import Request
from impasto_server.steps import BASE, Ask, Steps
from impasto_server.turns import Work
from impasto_server.words.prompt import Staged
from impasto_server.worn import Worn

AESTHETIC_SCORE = 6.0  # what diffusers' AmusedPipeline asks for


class Masked:
    """See Family. A row's context is what its lane says. There is no timestep in the backbone."""

    def __init__(self, parts: Parts) -> None:
        manifest, graphs = parts.bundle.manifest, parts.graphs
        assert isinstance(manifest, MaskedManifest)
        self._image, self._tokens = manifest.image, manifest.tokens
        self._masks = Masks(manifest.masking.schedule)
        self.speech = Speech(parts)
        self.backbones: Mapping[str, Backbone] = {BASE: Backbone(graphs.every("transformer"), self._feeds)}
        self._decoder, self._encoder = graphs.compiled("vq_decoder"), graphs.compiled("vq_encoder")
        self._lock = Lock()

    def example(self, stage: str = BASE) -> Row:
        return Row(Ask(self._blank(0, self._image.width, self._image.height), 0, 0, 1), self.speech.blank(), Seat())

    def warm(self, lanes: int) -> None:
        self.decode(self.example().ask.sample)

    def room(self, request: Request) -> int:
        return 0

    def read(self, request: Request) -> Work[Codes | None]:
        pixels = yield from content(request)
        return None if pixels is None else self.encode(pixels_to_model(pixels))

    def condition(self, request: Request, worn: Worn, seen: Codes | None) -> Work[Spoken]:
        def context(words: Staged) -> Staged:
            return words

        return (yield from self.speech.of(request, worn, request.rule(worn.words, worn.mixes), context))

    def begin(self, request: Request, seed: int, seen: Codes | None, contexts: Mapping[str, Sequence[Staged]]) -> Steps:
        draws = np.random.Generator(np.random.Philox(seed))
        canvas = self._canvas(request, seen, draws)
        anneal = ANNEALS[request.sampling.scheduler]
        return decode(canvas, request.sampling.steps, self._masks, anneal, request.own[TEMPERATURE.name], draws)

    def decode(self, sample: Codes) -> NDArray[np.uint8]:
        with self._lock:
            (image,) = self._decoder.run({"tokens": sample[None]})
        return to_uint8(2 * image[0] - 1)  # aMUSEd's pixels are 0 to 1

    def preview(self, sample: Codes) -> bytes:
        """One pixel for each token, the mean of those it becomes."""
        factor, (rows, columns) = self._tokens.factor, sample.shape
        squares = self.decode(sample).reshape(rows, factor, columns, factor, 3)
        return encode(squares.mean(axis=(1, 3)).round().astype(np.uint8), "png")

    def encode(self, pixels: NDArray[np.float32]) -> Codes:
        """RGB [3, H, W] in [-1, 1] → tokens [h, w]."""
        with self._lock:
            (tokens,) = self._encoder.run({"image": (pixels[None] + 1) / 2})
        found: Codes = tokens[0]
        return found

    def _canvas(self, request: Request, clean: Codes | None, draws: np.random.Generator) -> Canvas:
        """All unknown; or the content's tokens, of which as many are masked as the steps left out would have left."""
        mask_id = self._tokens.mask_id
        if clean is None:
            return Canvas(self._blank(mask_id, request.size.width, request.size.height), mask_id)
        behind = request.sampling.steps - request.steps_to_run
        ratio = self._masks.ratio(behind, request.sampling.steps)
        return Canvas(masked(clean, mask_id, ratio, draws), mask_id, behind)

    def _blank(self, token: int, width: int, height: int) -> Codes:
        return np.full((height // self._tokens.factor, width // self._tokens.factor), token, np.int64)

    def _feeds(self, rows: Sequence[Row]) -> Feeds:
        tokens = samples(rows)
        height, width = (size * self._tokens.factor for size in tokens.shape[1:])
        # The timestep is the share of steps to come: an embedding in stages goes by that.
        said = [row.context.at(row.ask.timestep, 1.0) for row in rows]
        conditions = np.array([width, height, 0, 0, AESTHETIC_SCORE], np.float32)  # the two zeros: a crop's corner
        return {
            "input_ids": tokens,
            "encoder_hidden_states": hidden(said),
            "pooled_text_emb": pooled(said),
            "micro_conds": np.tile(conditions, (len(rows), 1)),
        }

"""The family of masked transformers: aMUSEd's UViT over a VQ model's tokens.

A bundle may also have Muse's upscaler, over the tokens of a larger picture (cascade.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.seat import Seat
from impasto_server.backbone import Backbone, Feeds, Row, samples
from impasto_server.families.content import content
from impasto_server.families.family import Parts
from impasto_server.families.masked.base_image import base_image
from impasto_server.families.masked.cascade import Adapting, LookingAsk, Share, painted, shares, upscaler_feeds
from impasto_server.families.masked.manifest import DECODERS, UPSCALE, MaskedManifest
from impasto_server.families.masked.maskgit import ANNEALS, Canvas, Codes, Masks, decode, masked
from impasto_server.families.masked.stage import Decoder, Encoder, Painted
from impasto_server.families.spoken import Speech, Spoken, hidden, pooled
from impasto_server.pictures.content import pixels_to_model
from impasto_server.request import Request
from impasto_server.steps import BASE, Ask, Steps
from impasto_server.turns import Work
from impasto_server.words.prompt import Staged
from impasto_server.worn import Worn

AESTHETIC_SCORE = 6.0  # as in diffusers' AmusedPipeline


class Masked:
    """The masked family; see Family for the methods. A row's context is its lane's embeds. The backbones take no
    timestep.

    `seen` is the tokens of the request's picture: its content, or BASE_IMAGE.
    """

    def __init__(self, parts: Parts) -> None:
        manifest, graphs = parts.bundle.manifest, parts.graphs
        assert isinstance(manifest, MaskedManifest)
        self._manifest = manifest
        self._masks = Masks(manifest.masking.schedule)
        self._adapting = Adapting(manifest, parts.seating)
        self.speech = Speech(parts)
        feeds = {BASE: self._feeds, UPSCALE: upscaler_feeds}
        self.backbones: Mapping[str, Backbone] = {
            stage: Backbone(graphs.every(graph), feeds[stage]) for stage, graph in manifest.backbones.items()
        }
        self._decoders = {stage: Decoder(graphs.compiled(DECODERS[stage])) for stage in manifest.backbones}
        self._encoder = Encoder(graphs.compiled("vq_encoder"))

    def example(self, stage: str = BASE) -> Row:
        width, height = self._manifest.image.width, self._manifest.image.height
        small = Painted(BASE, self._blank(BASE, 0, width, height))
        if stage == BASE:
            return Row(Ask(small.tokens, 0, 0, 1), self.speech.blank(), Seat())
        ask = LookingAsk(self._blank(stage, 0, width, height), 0, 0, 1, stage=stage, below=small)
        return Row(ask, self.speech.blank(), Seat())

    def warm(self, lanes: int) -> None:
        for stage in self.backbones:
            self.decode(Painted(stage, self.example(stage).ask.sample))

    def room(self, request: Request) -> int:
        return 0

    def read(self, request: Request) -> Work[Codes | None]:
        pixels = yield from base_image(request, self._manifest.zoom, self._manifest.image)
        if pixels is None:
            pixels = yield from content(request, self._manifest.zoom)
        return None if pixels is None else self._encoder.encode(pixels_to_model(pixels))

    def condition(self, request: Request, worn: Worn, seen: Codes | None) -> Work[Spoken]:
        def context(words: Staged) -> Staged:
            return words

        guidance = {stage: self._adapting.guidance(stage, share.rule, worn) for stage, share in shares(request).items()}
        spoken = yield from self.speech.of(request, worn, guidance, context)
        warnings = spoken.warnings + self._adapting.warnings(request, worn)
        return replace(spoken, warnings=warnings, told=self._adapting.told(request, worn))

    def begin(self, request: Request, seed: int, seen: Codes | None, contexts: Mapping[str, Sequence[Staged]]) -> Steps:
        draws = np.random.Generator(np.random.Philox(seed))
        run, picture, done = shares(request), None, 0
        if BASE not in run:
            assert seen is not None, "a request without base steps brings BASE_IMAGE"
            picture = Painted(BASE, seen)
        total = sum(share.steps for share in run.values())
        for stage, share in run.items():
            steps = self._sampler(stage, share, request, seen, draws)
            picture = yield from painted(steps, stage, done, total, picture)
            done += share.steps
        return picture

    def decode(self, sample: Painted) -> NDArray[np.uint8]:
        return self._decoders[sample.stage].decode(sample.tokens)

    def preview(self, sample: Painted) -> bytes:
        return self._decoders[sample.stage].preview(sample.tokens)

    def _sampler(
        self, stage: str, share: Share, request: Request, seen: Codes | None, draws: np.random.Generator
    ) -> Steps:
        """A stage's sampler; only the base begins with the content."""
        content = seen if stage == BASE else None
        steps = request.sampling.steps if stage == BASE else share.steps
        canvas = self._canvas(stage, request, content, draws)
        return decode(canvas, steps, self._masks, ANNEALS[request.sampling.scheduler], share.temperature, draws)

    def _canvas(self, stage: str, request: Request, clean: Codes | None, draws: np.random.Generator) -> Canvas:
        """All tokens unknown; or the content's tokens, as many of them masked as the skipped steps would have left."""
        mask_id = self._manifest.stages[stage].mask_id
        if clean is None:
            return Canvas(self._blank(stage, mask_id, request.size.width, request.size.height), mask_id)
        behind = request.sampling.steps - request.steps_to_run
        ratio = self._masks.ratio(behind, request.sampling.steps)
        return Canvas(masked(clean, mask_id, ratio, draws), mask_id, behind)

    def _blank(self, stage: str, token: int, width: int, height: int) -> Codes:
        return np.full(self._manifest.grid(stage, width, height), token, np.int64)

    def _feeds(self, rows: Sequence[Row]) -> Feeds:
        """The base's feeds."""
        tokens = samples(rows)
        height, width = (size * self._manifest.tokens.factor for size in tokens.shape[1:])
        # The timestep is the share of steps to come, which picks the stage of an embedding.
        said = [row.context.at(row.ask.timestep, 1.0) for row in rows]
        conditions = np.array([width, height, 0, 0, AESTHETIC_SCORE], np.float32)  # the two zeros: a crop's corner
        return {
            "input_ids": tokens,
            "encoder_hidden_states": hidden(said),
            "pooled_text_emb": pooled(said),
            "micro_conds": np.tile(conditions, (len(rows), 1)),
        }

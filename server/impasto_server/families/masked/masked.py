"""The family of masked transformers: aMUSEd's UViT over a VQ model's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.graphs import Graphs
from impasto_server.adapters.seat import Seat
from impasto_server.backbone import Backbone, Embeds, Feeds, Row, hidden, pooled, samples
from impasto_server.bundle import MaskedManifest
from impasto_server.families.conditioning import Conditioner, Conditions
from impasto_server.families.diffusion.samplers import Steps
from impasto_server.families.masked.maskgit import ANNEALS, Canvas, Codes, Masks, decode, masked
from impasto_server.guidance import Rule
from impasto_server.pictures.image import encode, to_uint8
from impasto_server.request import Request
from impasto_server.turns import Work

AESTHETIC_SCORE = 6.0  # what diffusers' AmusedPipeline asks for


class Masked:
    """See Family. There is no timestep in the backbone; a staged embedding goes by the share of steps to come."""

    train_timesteps: float = 1.0

    def __init__(self, manifest: MaskedManifest, graphs: Graphs) -> None:
        self._manifest = manifest
        self._tokens = manifest.tokens
        self._masks = Masks(manifest.masking.schedule)
        self.backbone = Backbone(graphs.every("transformer"), self._feeds)
        self._decoder, self._encoder = graphs.compiled("vq_decoder"), graphs.compiled("vq_encoder")
        self._conditioner = Conditioner(self, None)
        self._lock = Lock()

    def warm(self, embeds: Embeds, max_lanes: int, weights_bytes: int) -> None:
        size = self._manifest.image
        tokens = self._blank(0, size.width, size.height)
        self.decode(tokens)
        self.backbone.prepare(Row(tokens, 0, embeds, Seat()), max_lanes, weights_bytes)

    def condition(self, request: Request) -> Work[Conditions]:
        return self._conditioner.read(request)

    def rule(self, request: Request) -> Rule:
        return request.rule

    def begin(self, request: Request, seed: int, conditions: Conditions) -> Steps:
        draws = np.random.Generator(np.random.Philox(seed))
        canvas = self._canvas(request, conditions, draws)
        anneal = ANNEALS[request.scheduler]
        return decode(canvas, request.steps, self._masks, anneal, request.temperature, draws)

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

    def _canvas(self, request: Request, conditions: Conditions, draws: np.random.Generator) -> Canvas:
        """All unknown; or the content's tokens, of which as many are masked as the steps left out would have left."""
        mask_id = self._tokens.mask_id
        if conditions.clean is None:
            return Canvas(self._blank(mask_id, request.width, request.height), mask_id)
        behind = request.steps - request.steps_to_run
        ratio = self._masks.ratio(behind, request.steps)
        return Canvas(masked(conditions.clean, mask_id, ratio, draws), mask_id, behind)

    def _blank(self, token: int, width: int, height: int) -> Codes:
        return np.full((height // self._tokens.factor, width // self._tokens.factor), token, np.int64)

    def _feeds(self, rows: Sequence[Row]) -> Feeds:
        tokens = samples(rows)
        height, width = (size * self._tokens.factor for size in tokens.shape[1:])
        conditions = np.array([width, height, 0, 0, AESTHETIC_SCORE], np.float32)  # the two zeros: a crop's corner
        return {
            "input_ids": tokens,
            "encoder_hidden_states": hidden(rows),
            "pooled_text_emb": pooled(rows),
            "micro_conds": np.tile(conditions, (len(rows), 1)),
        }

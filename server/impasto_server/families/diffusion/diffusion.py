"""The family of diffusion models: a UNet, and where the bundle has one its ControlNet, over a VAE's latents."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.graphs import Graphs
from impasto_server.adapters.seat import Seat
from impasto_server.backbone import Backbone, Embeds, Hint, Row
from impasto_server.bundle import DiffusionManifest
from impasto_server.errors import InvalidArgument
from impasto_server.families.conditioning import Conditioner, Conditions
from impasto_server.families.diffusion.samplers import SAMPLERS, Schedule, Start, Steps
from impasto_server.families.diffusion.unet import UNetFeeds
from impasto_server.guidance import Rule, Told
from impasto_server.pictures.image import Decoder, Encoder, Previewer
from impasto_server.request import Request
from impasto_server.turns import Work

Array = NDArray[np.float32]


class Diffusion:
    """See Family."""

    def __init__(self, manifest: DiffusionManifest, graphs: Graphs) -> None:
        self._manifest = manifest
        self._schedule = Schedule.of(manifest.scheduler)
        self.train_timesteps: float = manifest.scheduler.num_train_timesteps
        controlnet = graphs.compiled("controlnet") if "controlnet" in manifest.graphs else None
        self.backbone = Backbone(graphs.every("unet"), UNetFeeds(manifest, controlnet))
        self._decoder = Decoder(graphs.compiled("vae_decoder"), manifest.latents)
        self._previewer = Previewer(self._decoder, manifest.latents)
        self._conditioner = Conditioner(Encoder(graphs.compiled("vae_encoder"), manifest.latents), manifest.control)

    def warm(self, embeds: Embeds, max_lanes: int, weights_bytes: int) -> None:
        size = self._manifest.image
        latents = self.noise(0, size.width, size.height)
        self.decode(latents)
        row = Row(latents, 0, embeds, Seat())
        self.backbone.prepare(row, max_lanes, weights_bytes)
        if self._manifest.control is not None:
            hint = Hint(np.zeros((3, size.height, size.width), np.float32), 1.0)
            self.backbone.run([replace(row, hint=hint)] * min(2, max_lanes))

    def condition(self, request: Request) -> Work[Conditions]:
        return self._conditioner.read(request)

    def rule(self, request: Request) -> Rule:
        """A backbone that is told of its guidance has one lane, and no use for what only other lanes say."""
        if not self._manifest.told_of_guidance:
            return request.rule
        if request.guidance != "cfg":
            problem = f"{request.guidance} weighs lanes, and this backbone has its guidance built in"
            raise InvalidArgument("GUIDANCE", problem, "pass cfg, or leave it out")
        if request.negative_prompt:
            problem = "means nothing to this backbone, which has its guidance built in"
            raise InvalidArgument("NEGATIVE_PROMPT", problem, "leave it out")
        return Told(request.guidance_scale)

    def begin(self, request: Request, seed: int, conditions: Conditions) -> Steps:
        draws = np.random.Generator(np.random.Philox(seed))
        noise = draws.standard_normal(self._shape(request.width, request.height), np.float32)
        start = Start(noise, draws, conditions.clean, request.strength)
        return SAMPLERS[request.scheduler](start, request.steps, self._schedule)

    def decode(self, sample: Array) -> NDArray[np.uint8]:
        return self._decoder.decode(sample)

    def preview(self, sample: Array) -> bytes:
        return self._previewer.preview(sample)

    def noise(self, seed: int, width: int, height: int) -> Array:
        """Unit Gaussian latents [C, h, w], a function of the seed and the size alone."""
        return np.random.Generator(np.random.Philox(seed)).standard_normal(self._shape(width, height), np.float32)

    def _shape(self, width: int, height: int) -> tuple[int, int, int]:
        facts = self._manifest.latents
        return facts.channels, height // facts.factor, width // facts.factor

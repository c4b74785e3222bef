"""The family of diffusion models: a UNet over a VAE's latents, with a ControlNet where the bundle has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from impasto_server.adapters.seat import Seat
from impasto_server.backbone import Backbone, Row
from impasto_server.errors import InvalidArgument
from impasto_server.families.content import content
from impasto_server.families.diffusion.hints import Hint, Hints
from impasto_server.families.diffusion.manifest import DiffusionManifest
from impasto_server.families.diffusion.samplers import SAMPLERS, Start
from impasto_server.families.diffusion.schedule import Schedule
from impasto_server.families.diffusion.unet import Context, UNetFeeds
from impasto_server.families.diffusion.vae import Decoder, Encoder, Previewer
from impasto_server.families.family import Parts
from impasto_server.families.spoken import Speech, Spoken
from impasto_server.guidance import ClassifierFree, Rule
from impasto_server.pictures.content import pixels_to_model
from impasto_server.request import Request
from impasto_server.steps import BASE, Ask, Steps
from impasto_server.turns import Work
from impasto_server.words.prompt import Staged
from impasto_server.worn import Worn

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """The `clean` latents [C, h, w] of the content, and the ControlNet's hint."""

    clean: Array | None = None
    hint: Hint | None = None


class Diffusion:
    """The diffusion family; see Family for the methods."""

    def __init__(self, parts: Parts) -> None:
        manifest, graphs = parts.bundle.manifest, parts.graphs
        assert isinstance(manifest, DiffusionManifest)
        self._manifest = manifest
        self._schedule = Schedule.of(manifest.scheduler)
        self.speech = Speech(parts)
        controlnet = graphs.compiled("controlnet") if "controlnet" in manifest.graphs else None
        unet = Backbone(graphs.every("unet"), UNetFeeds(manifest, controlnet))
        self.backbones: Mapping[str, Backbone] = {BASE: unet}
        self._decoder = Decoder(graphs.compiled("vae_decoder"), manifest.latents)
        self._previewer = Previewer(self._decoder, manifest.latents)
        self._encoder = Encoder(graphs.compiled("vae_encoder"), manifest.latents)
        self._hints = Hints(manifest.control)

    def example(self, stage: str = BASE) -> Row:
        size = self._manifest.image
        return Row(Ask(self.noise(0, size.width, size.height), 0, 0, 1), Context(self.speech.blank()), Seat())

    def warm(self, lanes: int) -> None:
        row, size = self.example(), self._manifest.image
        self.decode(row.ask.sample)
        if self._manifest.steered:
            hint = Hint(np.zeros((3, size.height, size.width), np.float32), 1.0)
            self.backbones[BASE].run([replace(row, context=replace(row.context, hint=hint))] * min(2, lanes))

    def room(self, request: Request) -> int:
        return 0

    def read(self, request: Request) -> Work[Seen]:
        pixels = yield from content(request)
        clean = None if pixels is None else self._encoder.encode(pixels_to_model(pixels))
        return Seen(clean, (yield from self._hints.read(request, pixels)))

    def condition(self, request: Request, worn: Worn, seen: Seen | None) -> Work[Spoken]:
        rule, hint = self._rule(request), None if seen is None else seen.hint
        told = request.strengths["GUIDANCE_SCALE"] if self._manifest.told_of_guidance else 1.0

        def context(words: Staged) -> Context:
            return Context(words, hint, told, request.sampling.ramp)

        return (yield from self.speech.of(request, worn, {BASE: rule(worn.words, worn.mixes)}, context))

    def begin(self, request: Request, seed: int, seen: Seen | None, contexts: Mapping[str, Sequence[Context]]) -> Steps:
        draws = np.random.Generator(np.random.Philox(seed))
        noise = draws.standard_normal(self._shape(request.size.width, request.size.height), np.float32)
        start = Start(noise, draws, None if seen is None else seen.clean, request.content.strength)
        return SAMPLERS[request.sampling.scheduler](start, request.sampling.steps, self._schedule)

    def decode(self, sample: Array) -> NDArray[np.uint8]:
        return self._decoder.decode(sample)

    def preview(self, sample: Array) -> bytes:
        return self._previewer.preview(sample)

    def noise(self, seed: int, width: int, height: int) -> Array:
        """Unit Gaussian latents [C, h, w]; the seed and the size alone determine them."""
        return np.random.Generator(np.random.Philox(seed)).standard_normal(self._shape(width, height), np.float32)

    def _rule(self, request: Request) -> Rule:
        """The request's rule; for a backbone with built-in guidance, only the lane of the full prompt.

        Such a backbone has learnt classifier-free guidance by guided distillation (section 3 of arXiv 2210.03142, 4.3
        of arXiv 2310.04378), and takes its scale as an input. Raises InvalidArgument for another rule or a negative
        prompt.
        """
        if not self._manifest.told_of_guidance:
            return request.rule
        if not isinstance(request.rule, ClassifierFree):
            problem = f"{request.rule.name} combines several lanes, but this backbone has built-in guidance"
            raise InvalidArgument("GUIDANCE", problem, "pass cfg, or leave it out")
        if request.words.negative_prompt:
            problem = "means nothing to this backbone, which has built-in guidance"
            raise InvalidArgument("NEGATIVE_PROMPT", problem, "leave it out")
        return ClassifierFree(1.0)

    def _shape(self, width: int, height: int) -> tuple[int, int, int]:
        facts = self._manifest.latents
        return facts.channels, height // facts.factor, width // facts.factor

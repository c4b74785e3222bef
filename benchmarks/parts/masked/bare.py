"""A pipeline's own engines of a masked stage, for while it is idle, and what a guided picture's steps need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from benchmarks.common.draws import Decoding
from benchmarks.parts.masked.rounds import LANES, SCALE
from numpy.typing import NDArray

from impasto_server.adapters.seat import Seat, SeatedEngine
from impasto_server.backbone import Row
from impasto_server.families.masked.masked import Masked
from impasto_server.families.masked.maskgit import ANNEALS, Canvas, Masks, decode
from impasto_server.families.masked.stage import Painted
from impasto_server.guidance import combine
from impasto_server.pipeline import Pipeline
from impasto_server.steps import BASE

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Bare:
    """One stage's."""

    family: Masked
    stage: str
    engine: SeatedEngine
    step: Mapping[str, NDArray[Any]]
    seats: Sequence[Seat]
    tokens: Codes
    masks: Masks
    mask_id: int

    @classmethod
    def of(cls, pipeline: Pipeline, stage: str = BASE) -> Bare:
        """Every lane under a page of each form."""
        family = pipeline.family
        assert isinstance(family, Masked)
        backbone, mask_id = family.backbones[stage], family._manifest.stages[stage].mask_id
        example = family.example(stage)
        tokens = np.full_like(example.ask.sample, mask_id)
        row = Row(replace(example.ask, sample=tokens), example.context, backbone._engines[0].usual[0])
        feeds = backbone._feeds([row] * LANES)
        return cls(family, stage, backbone._engines[0], feeds, [row.seat] * LANES, tokens, family._masks, mask_id)

    def forward(self) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self.engine.run(self.step, self.seats)[0]
        return logits

    def decode(self) -> None:
        self.family.decode(Painted(self.stage, np.zeros_like(self.tokens)))

    def sample(self, logits: NDArray[np.float32], decoding: Decoding) -> None:
        """All of the stage's steps, with the same guided `logits` [codes, h, w] at each."""
        canvas, draws = Canvas(self.tokens, self.mask_id), np.random.Generator(np.random.Philox(0))
        anneal = ANNEALS[decoding.scheduler]
        sampler = decode(canvas, decoding.steps, self.masks, anneal, decoding.temperature, draws)
        next(sampler)
        try:
            while True:
                sampler.send(logits)
        except StopIteration:
            return

    def combine(self, logits: NDArray[np.float32], steps: int) -> None:
        for _ in range(steps):
            combine((1 - SCALE, SCALE), list(logits))

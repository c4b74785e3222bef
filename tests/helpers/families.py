"""Families for a pipeline under test: the bundle's own, any part of which a test may replace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_server.backbone import Backbone, Row
from impasto_server.families import FAMILIES
from impasto_server.families.diffusion.diffusion import Diffusion
from impasto_server.families.family import Conditions, Family, Parts
from impasto_server.families.masked.masked import Masked
from impasto_server.pipeline import Pipeline
from impasto_server.request import Request
from impasto_server.steps import Sample, Steps
from impasto_server.turns import Work
from impasto_server.words.encoder import TextEncoder
from impasto_server.worn import Worn


class Handed:
    """The family `inner`, until a test replaces one of its methods or backbones."""

    def __init__(self, inner: Family) -> None:
        self.inner = inner
        self.backbones: dict[str, Backbone] = dict(inner.backbones)

    @classmethod
    def of(cls, parts: Parts) -> Handed:
        """The bundle's family; a pipeline calls this to make it."""
        return cls(FAMILIES[parts.bundle.manifest.family].make(parts))

    def example(self, stage: str) -> Row:
        return self.inner.example(stage)

    def warm(self, lanes: int) -> None:
        self.inner.warm(lanes)

    def room(self, request: Request) -> int:
        return self.inner.room(request)

    def read(self, request: Request) -> Work[Any]:
        return self.inner.read(request)

    def condition(self, request: Request, worn: Worn, seen: Any) -> Work[Conditions]:
        return self.inner.condition(request, worn, seen)

    def begin(self, request: Request, seed: int, seen: Any, contexts: Mapping[str, Sequence[Any]]) -> Steps:
        return self.inner.begin(request, seed, seen, contexts)

    def decode(self, sample: Sample) -> NDArray[np.uint8]:
        return self.inner.decode(sample)

    def preview(self, sample: Sample) -> bytes:
        return self.inner.preview(sample)


def handed(pipeline: Pipeline) -> Handed:
    """The family that a test gave to the pipeline."""
    assert isinstance(pipeline.family, Handed)
    return pipeline.family


def encoders(pipeline: Pipeline) -> Sequence[TextEncoder]:
    """The text encoders of a pipeline of the diffusion or masked family."""
    family = pipeline.family.inner if isinstance(pipeline.family, Handed) else pipeline.family
    assert isinstance(family, Diffusion | Masked)
    return family.speech.prompts.encoders

"""What a masked transformer's bundle says of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import ClassVar, Literal

from pydantic import Field

from impasto_server.bundle import Frozen
from impasto_server.families.masked.maskgit import ANNEALS
from impasto_server.steps import BASE
from impasto_server.words.manifest import WordedManifest


class Tokens(Frozen):
    """A picture's tokens: one for each square of `factor` pixels, 0 to `codes` - 1, or `mask_id` where it's unknown."""

    factor: int = Field(gt=0)
    codes: int = Field(gt=1)
    mask_id: int


class Masking(Frozen):
    """How the share of tokens that are still unknown falls over the steps."""

    schedule: Literal["cosine", "linear"] = "cosine"


class MaskedManifest(WordedManifest):
    """A transformer that predicts the tokens that are masked."""

    backbones: ClassVar[Mapping[str, str]] = MappingProxyType({BASE: "transformer"})
    schedulers: ClassVar[Collection[str]] = ANNEALS.keys()

    family: Literal["masked"]
    tokens: Tokens
    masking: Masking

    def dimensions(self, width: int, height: int) -> Mapping[str, int]:
        factor = self.tokens.factor
        return {**super().dimensions(width, height), "w": width // factor, "h": height // factor}

"""The manifest of masked bundles."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from impasto_server.bundle import Frozen
from impasto_server.families.masked.maskgit import ANNEALS
from impasto_server.families.masked.offer import SECOND
from impasto_server.steps import BASE
from impasto_server.words.manifest import WordedManifest

UPSCALE = "upscale"
DECODERS: Mapping[str, str] = {BASE: "vq_decoder", UPSCALE: "upscaler_vq_decoder"}


class Tokens(Frozen):
    """A picture's tokens: one for each square of `factor` pixels, 0 to `codes` - 1, or `mask_id` where unknown."""

    factor: int = Field(gt=0)
    codes: int = Field(gt=1)
    mask_id: int


class Masking(Frozen):
    """How the share of unknown tokens falls over the steps."""

    schedule: Literal["cosine", "linear"] = "cosine"


class Upscale(Frozen):
    """A second stage, which paints `scale` times as many tokens per side as the base. `patch` x `patch` of its tokens
    are one position of its transformer.
    """

    tokens: Tokens
    scale: int = Field(gt=0)
    patch: int = Field(gt=0)


class MaskedManifest(WordedManifest):
    """The manifest of a transformer that predicts masked tokens; `image` describes the last stage's picture."""

    schedulers: ClassVar[Collection[str]] = ANNEALS.keys()

    family: Literal["masked"]
    tokens: Tokens
    masking: Masking
    upscale: Upscale | None = None

    @property
    def backbones(self) -> Mapping[str, str]:
        return {BASE: "transformer"} if self.upscale is None else {BASE: "transformer", UPSCALE: "upscaler"}

    @property
    def stages(self) -> Mapping[str, Tokens]:
        """The tokens of each stage."""
        return {BASE: self.tokens} if self.upscale is None else {BASE: self.tokens, UPSCALE: self.upscale.tokens}

    @property
    def zoom(self) -> int:
        """The finished picture's width over that of the base's picture."""
        return 1 if self.upscale is None else self.upscale.scale * self.upscale.tokens.factor // self.tokens.factor

    def grid(self, stage: str, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of a stage's tokens, for a finished picture of `width` x `height` pixels."""
        span = self.stages[stage].factor * (self.zoom if stage == BASE else 1)
        return height // span, width // span

    def dimensions(self, width: int, height: int) -> Mapping[str, int]:
        """As in Manifest. W and H are the base's; of the second stage only the transformer has dynamic dimensions."""
        rows, columns = self.grid(BASE, width, height)
        found = {**super().dimensions(width // self.zoom, height // self.zoom), "w": columns, "h": rows}
        if self.upscale is None:
            return found
        fine_rows, fine_columns = self.grid(UPSCALE, width, height)
        return {**found, "fine_w": fine_columns, "fine_h": fine_rows}

    @property
    def lacking(self) -> Mapping[str, str]:
        why = f"means nothing to bundle {self.name!r}, which has only one stage"
        return {} if self.upscale is not None else dict.fromkeys(SECOND, why)

    @property
    def told(self) -> Mapping[str, Any]:
        return {"stages": list(self.backbones), "zoom": self.zoom}

    @model_validator(mode="after")
    def _has_both_halves_of_a_second_stage(self) -> MaskedManifest:
        for graph in ("upscaler", DECODERS[UPSCALE]):
            if (graph in self.graphs) != (self.upscale is not None):
                raise ValueError(f"graph {graph} and upscale belong together, but one of them is missing")
        return self

    @model_validator(mode="after")
    def _paints_whole_tokens_at_every_stage(self) -> MaskedManifest:
        if self.upscale is None:
            return self
        fine = self.upscale.tokens.factor
        across, patched = self.upscale.scale * fine, self.upscale.patch * fine
        if across % self.tokens.factor:
            raise ValueError(f"the zoom is not a whole number for a base token of {self.tokens.factor} pixels")
        if self.image.multiple_of % across or self.image.multiple_of % patched:
            raise ValueError(f"image.multiple_of is {self.image.multiple_of}, not a multiple of {across} and {patched}")
        return self

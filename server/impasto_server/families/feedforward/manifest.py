"""The manifest of feed-forward bundles."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from impasto_server.bundle import File, Manifest
from impasto_server.families.feedforward.pieces import Pieces
from impasto_server.steps import BASE

TRANSFORM, PREDICTOR = "transform", "predictor"
VECTOR = "vector"  # the form of the family's styles
MAX_SIDE, MAX_PHOTO = 8192, 24 << 20  # a painting's limits: pixels of its longer side, and in all

Weakened = Literal["neutral", "content", "pixels"]


class FeedforwardManifest(Manifest):
    """The manifest of a net that paints a photo in one pass, in the style of a vector, or in the one style of its
    weights.

    `weakened` is what a style below full strength fades to: "neutral" is the `neutral` vector, "content" the photo's
    own vector by the predictor, "pixels" the photo's pixels. `border` pixels around a picture are painted and cut off
    again. `pieces` paint a picture that is too large to be painted whole.
    """

    schedulers: ClassVar[Collection[str]] = ()

    family: Literal["feedforward"]
    weakened: Weakened = "pixels"
    border: int = Field(default=0, ge=0, le=512)
    neutral: File | None = None
    pieces: Pieces | None = None

    @property
    def backbones(self) -> Mapping[str, str]:
        return {BASE: TRANSFORM}

    @property
    def vectors(self) -> int:
        """How many numbers a style's vector has; 0 for a net whose style is in its weights."""
        return sum(site.in_features for site in self.graphs[TRANSFORM].sites if site.kind == VECTOR)

    @property
    def predicts(self) -> bool:
        """Whether there is a predictor, which makes a style's vector from a picture."""
        return PREDICTOR in self.graphs

    @property
    def lacking(self) -> Mapping[str, str]:
        if self.predicts:
            return {}
        why = (
            f"needs a predictor, which bundle {self.name!r} doesn't have"
            if self.vectors
            else f"means nothing to bundle {self.name!r}, whose only style is in its weights"
        )
        return dict.fromkeys(("STYLE_IMAGES", "STYLE_IMAGE_WEIGHTS"), why)

    @property
    def told(self) -> Mapping[str, Any]:
        photo = {"long_side": MAX_SIDE, "max_pixels": self.most_pixels}
        return {"vectors": self.vectors, "predictor": self.predicts, "weakened": self.weakened, "photo": photo}

    @property
    def most_pixels(self) -> int:
        """The most pixels of a painting."""
        return min(MAX_PHOTO, self.image.max_pixels)

    @property
    def files(self) -> list[str]:
        own = [] if self.neutral is None else [self.neutral.file]
        return [*super().files, *own, *([] if self.pieces is None else self.pieces.files)]

    @model_validator(mode="after")
    def _has_what_its_styles_fade_to(self) -> FeedforwardManifest:
        if TRANSFORM not in self.graphs:
            raise ValueError(f"graphs lacks {TRANSFORM}")
        if self.predicts and not self.vectors:
            raise ValueError(f"graphs has a {PREDICTOR}, but {TRANSFORM} takes no vectors")
        if self.weakened == "neutral" and (self.neutral is None or not self.vectors):
            raise ValueError("weakened is neutral, but there is no neutral vector")
        if self.weakened == "content" and not self.predicts:
            raise ValueError(f"weakened is content, but graphs lacks {PREDICTOR}")
        return self

    @model_validator(mode="after")
    def _has_the_vectors_that_its_pieces_take(self) -> FeedforwardManifest:
        if self.pieces is not None and self.pieces.vector is None and self.pieces.numbers != self.vectors:
            raise ValueError(f"pieces take vectors of {self.pieces.numbers} numbers, but {TRANSFORM} of {self.vectors}")
        return self

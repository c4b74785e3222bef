"""The offer of feed-forward bundles: a photo, styles by name or from pictures, and masks for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from impasto_server.errors import InvalidArgument
from impasto_server.families.feedforward.manifest import MAX_SIDE
from impasto_server.fields import Field, Files, Flag, Number, Numbers, Whole, rows
from impasto_server.guidance import RULES, Guidance, Lane, Mixes, Prompts, Rule
from impasto_server.offer import FamilyOffer
from impasto_server.pictures.content import MAX_BYTES, check_bytes
from impasto_server.values import COMMON, MAX_WEIGHT

MAX_STYLES = 8
KNOWN = {"ADAPTER_NAMES", "ADAPTER_WEIGHTS", "IMAGE", "STRENGTH", "FORMAT", "MODEL"}

STYLE_IMAGES = Files(
    "STYLE_IMAGES",
    "Pictures to take styles from, with the bundle's predictor: encoded PNG, JPEG or WebP files. With ADAPTER_NAMES at "
    f"most {MAX_STYLES} styles in all.",
    default=(),
    usual="none",
    check=check_bytes,
    most=MAX_STYLES,
    most_bytes=MAX_BYTES,
)
STYLE_IMAGE_WEIGHTS = Numbers(
    "STYLE_IMAGE_WEIGHTS",
    "One weight for each of STYLE_IMAGES. The sum with ADAPTER_WEIGHTS must be above 0 and at most 1; a sum below 1 "
    "weakens the style as STRENGTH does. With styles of both kinds, send weights for both or for neither.",
    default=(),
    usual="equal weights with the sum 1",
    low=-MAX_WEIGHT,
    high=MAX_WEIGHT,
)
MASKS = Files(
    "MASKS",
    "Grey pictures of IMAGE's size, white where to paint. Either one for the mix of all styles, or one for each style, "
    "those of ADAPTER_NAMES first. With one each, styles aren't mixed, and each has its own weight, by default 1. "
    "Where several masks are white, their styles share.",
    default=(),
    usual="all is painted",
    check=check_bytes,
    most=MAX_STYLES,
    most_bytes=MAX_BYTES,
)
DETAIL = Number(
    "DETAIL",
    "How fine the texture is: 2 paints at twice the size and reduces the result; 0.5 paints at half the size and "
    "enlarges it.",
    default=1.0,
    low=0.25,
    high=4.0,
)
PRESERVE_COLOR = Flag(
    "PRESERVE_COLOR",
    "Whether to keep the photo's colours and take only the brightness (Y of BT.601) from the painting.",
    default=False,
)
LONG_SIDE = Whole(
    "LONG_SIDE",
    "Pixels of the painting's longer side.",
    usual="the photo's own",
    low=16,
    high=MAX_SIDE,
)
STRENGTHS = tuple(row for rule in RULES for row in rows(rule).values())
OWN: tuple[Field, ...] = (STYLE_IMAGES, STYLE_IMAGE_WEIGHTS, MASKS, DETAIL, PRESERVE_COLOR, LONG_SIDE)


@dataclass(frozen=True)
class Unguided(Rule):
    """The family's only rule: one lane, without guidance."""

    def __call__(self, prompts: Prompts, mixes: Mixes) -> Guidance:
        return Guidance.over((1, 1, Lane(mix=mixes.full)))


def filled(values: Mapping[str, Any], said: Collection[str]) -> Mapping[str, Any]:
    """The styles' weights, with defaults where none were sent. Raises InvalidArgument for fields that don't match."""
    if values["IMAGE"] is None:
        raise InvalidArgument("IMAGE", "is missing", "pass the photo to paint")
    names, pictures, masks = values["ADAPTER_NAMES"], values["STYLE_IMAGES"], values["MASKS"]
    styles = len(names) + len(pictures)
    if styles > MAX_STYLES:
        problem = f"{len(pictures)} pictures and {len(names)} names in ADAPTER_NAMES are {styles} styles"
        raise InvalidArgument("STYLE_IMAGES", problem, f"pass at most {MAX_STYLES} in all")
    if len(masks) not in (0, 1, styles):
        problem = f"{len(masks)} masks for {styles} styles"
        raise InvalidArgument("MASKS", problem, "pass one for all of them, or one for each")
    _check_weights(values, said)
    each = 1.0 if len(masks) == styles else 1 / max(1, styles)
    return {
        "ADAPTER_WEIGHTS": values.get("ADAPTER_WEIGHTS") or (each,) * len(names),
        "STYLE_IMAGE_WEIGHTS": values["STYLE_IMAGE_WEIGHTS"] or (each,) * len(pictures),
    }


def _check_weights(values: Mapping[str, Any], said: Collection[str]) -> None:
    names, pictures, weights = values["ADAPTER_NAMES"], values["STYLE_IMAGES"], values["STYLE_IMAGE_WEIGHTS"]
    if "STYLE_IMAGE_WEIGHTS" in said and len(weights) != len(pictures):
        problem = f"{len(weights)} weights for {len(pictures)} pictures"
        raise InvalidArgument(
            "STYLE_IMAGE_WEIGHTS", problem, "pass one weight for each of STYLE_IMAGES, or none at all"
        )
    for field, other in (("ADAPTER_WEIGHTS", "STYLE_IMAGE_WEIGHTS"), ("STYLE_IMAGE_WEIGHTS", "ADAPTER_WEIGHTS")):
        if names and pictures and field not in said and other in said:
            raise InvalidArgument(field, f"is missing, but {other} is sent", "pass a weight for each style, or none")


OFFER = FamilyOffer(
    family="feedforward",
    samplers=(),
    defaults={"SCHEDULER": "once", "STEPS": 1, "STRENGTH": 1.0},
    own=OWN,
    unknown=tuple(name for name in dict.fromkeys(row.name for row in (*COMMON, *STRENGTHS)) if name not in KNOWN),
    spread=("once",),
    rules=(Unguided,),
    filled=filled,
)

"""The offer of masked bundles. The defaults are those of diffusers, and for StyleDrop those of its Table S3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from impasto_server.families.masked.maskgit import ANNEALS
from impasto_server.fields import Field, File, Number, Option, Whole, rows
from impasto_server.guidance import MAX_STRENGTH, RULES, StyleDrop
from impasto_server.offer import FamilyOffer, Idle
from impasto_server.pictures.content import check_bytes
from impasto_server.values import MAX_STEPS

TEMPERATURE = Number(
    "TEMPERATURE",
    "How random the choice is of the tokens that are kept after a step.",
    option=Option(
        "for a masked backbone, 0 to 100: how random the choice is of the tokens that are kept after each step.",
        "For a masked backbone: how random the choice is of the tokens that are kept.",
    ),
    low=0.0,
    high=100.0,
)
UPSCALE_STEPS = Whole(
    "UPSCALE_STEPS",
    "Steps of the second stage, which repaints the base's picture, larger and finer, at WIDTH x HEIGHT. GUIDANCE_RAMP "
    "rises in each stage. 0: only the base's picture, in its own size, WIDTH and HEIGHT divided by the bundle's zoom. "
    "This and the other fields of the second stage are for bundles that have one.",
    default=0,
    option=Option(
        "for a backbone of two stages, 0 to 200: steps of the second; with 0 the picture is the first stage's, in its "
        "smaller size.",
        "For a backbone of two stages: steps of the second; 0 leaves it out.",
    ),
    high=MAX_STEPS,
)
UPSCALE_TEMPERATURE = Number(
    "UPSCALE_TEMPERATURE",
    "TEMPERATURE of the second stage.",
    default=4.5,
    option=Option(
        "for a backbone of two stages: `temperature` of the second.",
        "For a backbone of two stages: --temperature of the second.",
    ),
    low=0.0,
    high=100.0,
)
UPSCALE_GUIDANCE_SCALE = Number(
    "UPSCALE_GUIDANCE_SCALE",
    "GUIDANCE_SCALE of the second stage, with cfg, dreamstyler and dreamstyler-code; Muse's t plus 1. Not with "
    "styledrop and styledrop-compose.",
    default=2.0,
    option=Option(
        "for a backbone of two stages, 0 to 50: `guidance_scale` of the second; not with StyleDrop and Compose.",
        "For a backbone of two stages: --guidance-scale of the second.",
    ),
    low=0.0,
    high=MAX_STRENGTH,
)
UPSCALE_STYLE_STRENGTH = Number(
    "UPSCALE_STYLE_STRENGTH",
    "STYLE_STRENGTH, λA, of the second stage. Only with styledrop and styledrop-compose.",
    default=1.0,
    option=Option(
        "for a backbone of two stages, with StyleDrop and Compose, -50 to 50: `style_strength` of the second.",
        "With StyleDrop's guidance, for a backbone of two stages: --style-strength of the second.",
    ),
    low=-MAX_STRENGTH,
    high=MAX_STRENGTH,
)
UPSCALE_TEXT_STRENGTH = Number(
    "UPSCALE_TEXT_STRENGTH",
    "TEXT_STRENGTH, λB, of the second stage. Only with styledrop and styledrop-compose.",
    default=0.0,
    option=Option(
        "for a backbone of two stages, with StyleDrop and Compose, -50 to 50: `text_strength` of the second.",
        "With StyleDrop's guidance, for a backbone of two stages: --text-strength of the second.",
    ),
    low=-MAX_STRENGTH,
    high=MAX_STRENGTH,
)
BASE_IMAGE = File(
    "BASE_IMAGE",
    "A picture in place of the base's: only the second stage is run, on this encoded PNG, JPEG or WebP file. Its size "
    "is that of a base's picture, WIDTH and HEIGHT divided by the bundle's zoom. The base's own fields may not be sent "
    "with it.",
    usual="none, the base paints",
    option=Option(
        "for a backbone of two stages, in place of the first stage's picture: the one that the second paints larger "
        "and finer; passed like `image`, in the size of the first stage's pictures.",
        "For a backbone of two stages: the picture that the second paints larger and finer.",
        metavar="FILE",
    ),
    check=check_bytes,
)

BY_SCALE, BY_ADAPTERS = (UPSCALE_GUIDANCE_SCALE,), (UPSCALE_STYLE_STRENGTH, UPSCALE_TEXT_STRENGTH)
_STEPPED: tuple[Field, ...] = (UPSCALE_TEMPERATURE, *BY_SCALE, *BY_ADAPTERS)
SECOND = tuple(row.name for row in (UPSCALE_STEPS, *_STEPPED, BASE_IMAGE))  # the fields of the second stage
_DROPPING = tuple(rule.name for rule in RULES if issubclass(rule, StyleDrop))
_GUIDED = tuple(row.name for rule in RULES for row in rows(rule).values())
_OF_BASE = ("STEPS", TEMPERATURE.name, *_GUIDED, "IMAGE", "STRENGTH")


def idle(values: Mapping[str, Any]) -> Mapping[str, Idle]:
    """The fields that have no effect, since a stage isn't run, or its rule doesn't use them."""
    dropped = values["GUIDANCE"] in _DROPPING
    others, fix = (BY_SCALE, "cfg") if dropped else (BY_ADAPTERS, " or ".join(_DROPPING))
    ruled = Idle(f"means nothing to GUIDANCE {values['GUIDANCE']}", f"leave it out, or pass GUIDANCE {fix}")
    found = {row.name: ruled for row in others}
    if not values[UPSCALE_STEPS.name]:
        alone = Idle("means nothing at UPSCALE_STEPS 0, which skips the second stage", "leave one of the two out")
        return found | {row.name: alone for row in (*_STEPPED, BASE_IMAGE)}
    if values[BASE_IMAGE.name] is not None:
        given = Idle("means nothing beside BASE_IMAGE, which replaces the base's picture", "leave it out")
        return found | {name: given for name in _OF_BASE if name != "GAMMA"}
    return found


DROPPED = {"SCHEDULER": "maskgit", "STEPS": 36, TEMPERATURE.name: 4.5, UPSCALE_STEPS.name: 12}
OFFER = FamilyOffer(
    family="masked",
    samplers=ANNEALS.keys(),
    defaults={
        "SCHEDULER": "amused",
        "STEPS": 12,
        "GUIDANCE_SCALE": 10.0,
        TEMPERATURE.name: 2.0,
        UPSCALE_STEPS.name: 8,
    },
    by_rule={"styledrop": DROPPED, "styledrop-compose": DROPPED},
    own=(TEMPERATURE, UPSCALE_STEPS, *_STEPPED, BASE_IMAGE),
    idle=idle,
)

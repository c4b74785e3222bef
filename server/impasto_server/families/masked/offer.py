"""What masked bundles know of requests. Defaults are diffusers', and StyleDrop's of its Table S3."""

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
    "How much chance decides which tokens are kept after a step.",
    option=Option(
        "of a masked backbone, 0 to 100: how much chance decides which tokens are kept after each step.",
        "Of a masked backbone: how much chance decides which tokens are kept.",
    ),
    low=0.0,
    high=100.0,
)
UPSCALE_STEPS = Whole(
    "UPSCALE_STEPS",
    "Steps of the second stage, which paints the base's picture anew, larger and finer, to WIDTH x HEIGHT; "
    "GUIDANCE_RAMP rises in each stage. 0: the base's picture alone, in its own size, which is WIDTH and HEIGHT "
    "divided by the bundle's zoom. This and what else is said of a second stage: of bundles that have one.",
    default=0,
    option=Option(
        "of a backbone of two stages, 0 to 200: steps of the second; with 0 the picture is the first one's, and as "
        "small.",
        "Of a backbone of two stages: steps of the second; 0 leaves it out.",
    ),
    high=MAX_STEPS,
)
UPSCALE_TEMPERATURE = Number(
    "UPSCALE_TEMPERATURE",
    "TEMPERATURE of the second stage.",
    default=4.5,
    option=Option(
        "of a backbone of two stages: `temperature` of the second.",
        "Of a backbone of two stages: --temperature of the second.",
    ),
    low=0.0,
    high=100.0,
)
UPSCALE_GUIDANCE_SCALE = Number(
    "UPSCALE_GUIDANCE_SCALE",
    "GUIDANCE_SCALE of the second stage, which is guided so by cfg, dreamstyler and dreamstyler-code; Muse's t is one "
    "less. Not with styledrop and styledrop-compose.",
    default=2.0,
    option=Option(
        "of a backbone of two stages, 0 to 50: `guidance_scale` of the second; not with StyleDrop and Compose.",
        "Of a backbone of two stages: --guidance-scale of the second.",
    ),
    low=0.0,
    high=MAX_STRENGTH,
)
UPSCALE_STYLE_STRENGTH = Number(
    "UPSCALE_STYLE_STRENGTH",
    "STYLE_STRENGTH, λA, of the second stage. With styledrop and styledrop-compose only.",
    default=1.0,
    option=Option(
        "of a backbone of two stages, with StyleDrop and Compose, -50 to 50: `style_strength` of the second.",
        "With StyleDrop's guidance, of a backbone of two stages: --style-strength of the second.",
    ),
    low=-MAX_STRENGTH,
    high=MAX_STRENGTH,
)
UPSCALE_TEXT_STRENGTH = Number(
    "UPSCALE_TEXT_STRENGTH",
    "TEXT_STRENGTH, λB, of the second stage. With styledrop and styledrop-compose only.",
    default=0.0,
    option=Option(
        "of a backbone of two stages, with StyleDrop and Compose, -50 to 50: `text_strength` of the second.",
        "With StyleDrop's guidance, of a backbone of two stages: --text-strength of the second.",
    ),
    low=-MAX_STRENGTH,
    high=MAX_STRENGTH,
)
BASE_IMAGE = File(
    "BASE_IMAGE",
    "A picture that takes the place of the base's: the second stage alone is run, over an encoded PNG, JPEG or WebP "
    "file whose size is that of a base's picture, WIDTH and HEIGHT divided by the bundle's zoom. What is said of the "
    "base means nothing then.",
    usual="none, the base paints",
    option=Option(
        "of a backbone of two stages, in place of what the first one paints: the picture that the second paints larger "
        "and finer; passed as `image` is, and as large as the first one's pictures are.",
        "Of a backbone of two stages: the picture that the second one paints larger and finer.",
        metavar="FILE",
    ),
    check=check_bytes,
)

BY_SCALE, BY_ADAPTERS = (UPSCALE_GUIDANCE_SCALE,), (UPSCALE_STYLE_STRENGTH, UPSCALE_TEXT_STRENGTH)
_STEPPED: tuple[Field, ...] = (UPSCALE_TEMPERATURE, *BY_SCALE, *BY_ADAPTERS)
SECOND = tuple(row.name for row in (UPSCALE_STEPS, *_STEPPED, BASE_IMAGE))  # what is about a second stage
_DROPPING = tuple(rule.name for rule in RULES if issubclass(rule, StyleDrop))
_OF_BASE = ("STEPS", TEMPERATURE.name, *(row.name for rule in RULES for row in rows(rule).values()), "IMAGE")


def idle(values: Mapping[str, Any]) -> Mapping[str, Idle]:
    """What one stage makes of what is said about the other."""
    dropped = values["GUIDANCE"] in _DROPPING
    others, fix = (BY_SCALE, "cfg") if dropped else (BY_ADAPTERS, " or ".join(_DROPPING))
    ruled = Idle(f"means nothing to GUIDANCE {values['GUIDANCE']}", f"leave it out, or pass GUIDANCE {fix}")
    found = {row.name: ruled for row in others}
    if not values[UPSCALE_STEPS.name]:
        alone = Idle("means nothing at UPSCALE_STEPS 0, which leaves the second stage out", "leave one of the two out")
        return found | {row.name: alone for row in (*_STEPPED, BASE_IMAGE)}
    if values[BASE_IMAGE.name] is not None:
        given = Idle("means nothing beside BASE_IMAGE, which is there in place of the base's picture", "leave it out")
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

"""What masked bundles know of requests. Defaults are diffusers', and StyleDrop's of its Table S3."""

from __future__ import annotations

from impasto_server.families.masked.maskgit import ANNEALS
from impasto_server.fields import Number, Option
from impasto_server.offer import FamilyOffer

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
DROPPED = {"SCHEDULER": "maskgit", "STEPS": 36, TEMPERATURE.name: 4.5}
OFFER = FamilyOffer(
    family="masked",
    samplers=ANNEALS.keys(),
    defaults={"SCHEDULER": "amused", "STEPS": 12, "GUIDANCE_SCALE": 10.0, TEMPERATURE.name: 2.0},
    by_rule={"styledrop": DROPPED, "styledrop-compose": DROPPED},
    own=(TEMPERATURE,),
)

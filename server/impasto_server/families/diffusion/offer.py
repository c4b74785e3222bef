"""The offer of diffusion bundles."""

from __future__ import annotations

from impasto_server.families.diffusion.samplers import SAMPLERS, SPREAD
from impasto_server.offer import FamilyOffer

OFFER = FamilyOffer(
    family="diffusion",
    samplers=SAMPLERS.keys(),
    defaults={"SCHEDULER": "dpmpp_2m", "STEPS": 25, "GUIDANCE_SCALE": 3.0},
    spread=SPREAD,
)

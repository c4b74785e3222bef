"""The default catalogue of a FakeTransport."""

from __future__ import annotations

from impasto_client.catalogue import Bundle, Catalogue, Defaults, Rule, Size, Strength

EXAMPLE = Catalogue(
    default="fake",
    bundles=(
        Bundle(
            name="fake",
            family="fake",
            checkpoint="fake",
            digest="0" * 64,
            size=Size(width=128, height=128, multiple_of=8, max_pixels=1 << 20),
            samplers=("dpmpp_2m",),
            defaults=Defaults(scheduler="dpmpp_2m", steps=25),
            rules=(Rule("cfg", (Strength("GUIDANCE_SCALE", default=3.0, low=0.0, high=50.0),)),),
            fields=("PROMPT", "STEPS", "GUIDANCE_SCALE", "SEED", "WIDTH", "HEIGHT"),
            control=(),
            pinned=(),
        ),
    ),
    adapters=(),
    unread=(),
)

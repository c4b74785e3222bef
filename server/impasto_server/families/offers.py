"""All families' offers, and the inputs of the Triton models: every field that any family knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from impasto_server.bundle import Manifest
from impasto_server.families import FAMILIES
from impasto_server.fields import Field, rows
from impasto_server.guidance import RULES, Rule
from impasto_server.offer import FamilyOffer, Offer
from impasto_server.values import COMMON, GUIDANCE, STREAMED

OFFERS: Mapping[str, FamilyOffer] = {name: kind.offer for name, kind in FAMILIES.items()}


def offer_of(manifest: Manifest) -> Offer:
    """A bundle's offer."""
    return Offer.of(FAMILIES[manifest.family].offer, manifest)


def inputs(
    rules: Sequence[type[Rule]] = RULES, families: Sequence[FamilyOffer] = tuple(OFFERS.values())
) -> dict[str, Field]:
    """A row for each input, in reading order; where several rules have a field, the first one's row."""
    strengths = [row for rule in rules for row in rows(rule).values()]
    own = [row for family in families for row in family.own]
    before = COMMON.index(GUIDANCE) + 1
    last = [row for row in COMMON if row.name in STREAMED]
    found: dict[str, Field] = {}
    for row in (*COMMON[:before], *strengths, *COMMON[before:], *own):
        found.setdefault(row.name, row)
    return {**{name: row for name, row in found.items() if row not in last}, **{row.name: row for row in last}}


STREAM_FIELDS: Mapping[str, Field] = inputs()
FIELDS: Mapping[str, Field] = {name: row for name, row in STREAM_FIELDS.items() if name not in STREAMED}

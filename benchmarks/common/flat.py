"""Requests in one line: values by the names of their fields in lower case, with a plain bundle's defaults, unchecked.

A server's own door is `Offer.request`, which knows a bundle's defaults and checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from impasto_server.families.diffusion.samplers import SPREAD
from impasto_server.families.masked.maskgit import ANNEALS
from impasto_server.families.masked.offer import OFFER
from impasto_server.fields import rows
from impasto_server.guidance import RULES
from impasto_server.request import Request
from impasto_server.values import COMMON

MASKED: Mapping[str, Any] = {**{row.name: row.default for row in OFFER.own}, "TEMPERATURE": 2.0}
PLAIN: Mapping[str, Any] = {
    **{row.name: row.default for rule in RULES for row in rows(rule).values()},
    **{row.name: row.default for row in COMMON},
    "SCHEDULER": "dpmpp_2m",
    "STEPS": 25,
    "GUIDANCE_SCALE": 3.0,
    "timeout_s": None,
}


def request_of(
    prompt: str,
    seed: int,
    width: int,
    height: int,
    negative_prompt: str = "",
    adapters: Sequence[tuple[str, float]] = (),
    steps: int = 25,
    guidance_scale: float = 3.0,
    **values: Any,
) -> Request:
    """Names of adapters stand with their weights."""
    words = {"prompt": prompt, "negative_prompt": negative_prompt, "adapters": adapters}
    numbers = {"seed": seed, "width": width, "height": height, "steps": steps, "guidance_scale": guidance_scale}
    return _with(PLAIN, {**words, **numbers, **values})


def altered(request: Request, **values: Any) -> Request:
    """The same but for these."""
    return _with({**PLAIN, **request.values}, values)


def _with(before: Mapping[str, Any], said: dict[str, Any]) -> Request:
    """What the masked family alone knows is there where the sampler is one of its own."""
    adapters = said.pop("adapters", None)
    values = {**before, **{name if name == "timeout_s" else name.upper(): value for name, value in said.items()}}
    if adapters is not None:
        values["ADAPTER_NAMES"] = tuple(name for name, _ in adapters)
        values["ADAPTER_WEIGHTS"] = tuple(weight for _, weight in adapters)
    masked = {name: values.pop(name, default) for name, default in MASKED.items()}
    own = masked if values["SCHEDULER"] in ANNEALS else {}
    strange = set(values) - {*PLAIN, "spreads"}
    assert not strange, f"no fields: {strange}"
    return Request.of({**values, **own, "spreads": values["SCHEDULER"] in SPREAD})

"""What a round of masked.py asks for, and what the rounds come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median
from typing import Any

from benchmarks.common.backbones import NAMES
from benchmarks.common.bench import COLOURS, THINGS, interval, ratio
from benchmarks.common.crowd import Crowd

from impasto_server.bundle import ImageSize
from impasto_server.request import Request

STEPS = (12, 36)  # diffusers' default, and StyleDrop's
SCALE, TEMPERATURE, SCHEDULER = 3.0, 2.0, "amused"
LANES = 2
CROWDS = ("adapters", "peer", "same", "bottlenecks", "plain")
# Of crowds beside the peer's: whose seconds are divided by whose.
COMPARED = {
    "heterogeneity": ("same", "adapters"),
    "bottleneck_ratio": ("bottlenecks", "adapters"),
    "adapter_tax": ("adapters", "plain"),
}


def guided(image: ImageSize, steps: int, number: int) -> Request:
    """One picture by classifier-free guidance, with words and a seed of its own."""
    return Request(
        prompt=f"a {COLOURS[number % 8]} {THINGS[number // 8 % 8]} at night, picture {number}",
        adapters=((NAMES[0], 1.0),),
        steps=steps,
        guidance_scale=SCALE,
        scheduler=SCHEDULER,
        temperature=TEMPERATURE,
        seed=number,
        width=image.width,
        height=image.height,
    )


def composed(image: ImageSize, steps: int, number: int) -> Request:
    """The same in the style of one adapter with the content of another: five lanes."""
    return replace(
        guided(image, steps, number),
        adapters=(),
        guidance="styledrop-compose",
        style=NAMES[:1],
        content=NAMES[1],
        content_prompt=f"a {THINGS[number % 8]}, picture {number}",
        gamma=0.5,
    )


def users(image: ImageSize, names: Sequence[str | None]) -> Crowd:
    """A guided request for each adapter."""
    asked = [guided(image, STEPS[0], user) for user in range(len(names))]
    return tuple(
        replace(request, adapters=() if name is None else ((name, 1.0),))
        for request, name in zip(asked, names, strict=True)
    )


@dataclass(frozen=True)
class Round:
    """Seconds: of guided pictures by steps; of one of their forward passes and decodings; of all their sampling and
    combining, by steps; of a composition; and of crowds, those of CROWDS that were asked."""

    guided: Mapping[int, float]
    forward: float
    decode: float
    sample: Mapping[int, float]
    combine: Mapping[int, float]
    composed: float
    crowds: Mapping[str, float]


def bare_seconds(rounds: Sequence[Round], steps: int) -> float:
    """steps x one forward + decoding."""
    return steps * median(one.forward for one in rounds) + median(one.decode for one in rounds)


def image_time_ratio(rounds: Sequence[Round], steps: int) -> float:
    return median(one.guided[steps] for one in rounds) / bare_seconds(rounds, steps)


def compose_ratio(rounds: Sequence[Round]) -> float:
    return median(one.composed for one in rounds) / median(one.guided[STEPS[0]] for one in rounds)


def crowd_ratio(rounds: Sequence[Round], over: str, under: str) -> float:
    """Median of the rounds' own quotients."""
    return ratio([one.crowds[over] for one in rounds], [one.crowds[under] for one in rounds])


def where(rounds: Sequence[Round], steps: int) -> dict[str, float]:
    """Medians in ms of what a picture's time is spent on."""
    image = 1000 * median(one.guided[steps] for one in rounds)
    parts = {
        "forwards": 1000 * steps * median(one.forward for one in rounds),
        "decode": 1000 * median(one.decode for one in rounds),
        "sampler": 1000 * median(one.sample[steps] for one in rounds),
        "combine": 1000 * median(one.combine[steps] for one in rounds),
    }
    found = {"image": image, **parts, "rest": image - sum(parts.values())}
    return {name: round(value, 3) for name, value in found.items()}


def figures(rounds: Sequence[Round]) -> dict[str, Any]:
    """What the rounds come to."""
    found: dict[str, Any] = {}
    for steps in STEPS:
        key, figure = f"image_time_ratio_{steps}", partial(image_time_ratio, steps=steps)
        spent = where(rounds, steps)
        found |= {key: figure(rounds), f"{key}_interval_95": interval(figure, rounds)}
        found[f"sampler_share_{steps}"] = (spent["sampler"] + spent["combine"]) / spent["image"]
        found[f"where_{steps}_ms"] = spent
    faster = partial(crowd_ratio, over="peer", under="adapters")
    return {
        **found,
        "compose_ratio": compose_ratio(rounds),
        "compose_ratio_interval_95": interval(compose_ratio, rounds),
        "throughput_ratio_vs_diffusers_peft": faster(rounds),
        "throughput_ratio_interval_95": interval(faster, rounds),
        **{key: crowd_ratio(rounds, *pair) for key, pair in COMPARED.items() if set(pair) <= rounds[0].crowds.keys()},
        "images_per_second": {
            name: round(len(NAMES) / median(one.crowds[name] for one in rounds), 4) for name in rounds[0].crowds
        },
        "rounds": len(rounds),
        "samples": [asdict(one) for one in rounds],
    }

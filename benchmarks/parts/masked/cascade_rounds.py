"""What the rounds of a cascade come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.common.bench import interval, ratio


@dataclass(frozen=True)
class Parts:
    """Seconds of a stage's: one forward pass of a guided picture, and all of its sampling and combining."""

    forward: float
    sample: float
    combine: float


@dataclass(frozen=True)
class Round:
    """Seconds: of a guided picture, of its stages' parts, of decoding its tokens; and of all users' pictures, through
    the server and by the peer."""

    picture: float
    stages: Mapping[str, Parts]
    decode: float
    served: float
    peer: float


def bare_seconds(rounds: Sequence[Round], steps: Mapping[str, int]) -> float:
    """Of each stage steps x one forward, and the decoding."""
    forwards = sum(count * median(one.stages[stage].forward for one in rounds) for stage, count in steps.items())
    return forwards + median(one.decode for one in rounds)


def image_time_ratio(rounds: Sequence[Round], steps: Mapping[str, int]) -> float:
    return median(one.picture for one in rounds) / bare_seconds(rounds, steps)


def faster(rounds: Sequence[Round]) -> float:
    """Median of the rounds' own quotients."""
    return ratio([one.peer for one in rounds], [one.served for one in rounds])


def where(rounds: Sequence[Round], steps: Mapping[str, int]) -> dict[str, float]:
    """Medians in ms of what a picture's time is spent on."""
    parts = {"decode": median(one.decode for one in rounds)}
    for stage, count in steps.items():
        parts[f"{stage} forwards"] = count * median(one.stages[stage].forward for one in rounds)
        parts[f"{stage} sampler"] = median(one.stages[stage].sample for one in rounds)
        parts[f"{stage} combine"] = median(one.stages[stage].combine for one in rounds)
    picture = median(one.picture for one in rounds)
    found = {"image": picture, **parts, "rest": picture - sum(parts.values())}
    return {name: round(1000 * value, 3) for name, value in found.items()}


def figures(rounds: Sequence[Round], steps: Mapping[str, int], users: int) -> dict[str, Any]:
    def overhead(some: Sequence[Round]) -> float:
        return image_time_ratio(some, steps)

    return {
        "image_time_ratio_stages": overhead(rounds),
        "image_time_ratio_stages_interval_95": interval(overhead, rounds),
        "where_ms": where(rounds, steps),
        "throughput_ratio_vs_torch_loop": faster(rounds),
        "throughput_ratio_interval_95": interval(faster, rounds),
        "images_per_second": {
            "served": round(users / median(one.served for one in rounds), 4),
            "peer": round(users / median(one.peer for one in rounds), 4),
        },
        "rounds": len(rounds),
        "samples": [asdict(one) for one in rounds],
    }

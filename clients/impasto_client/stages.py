"""Assign styles to stages: stage 0 paints the finest detail, the last one the composition."""

from __future__ import annotations

from collections.abc import Iterable

from impasto_client.errors import InvalidRequest
from impasto_client.tensor import shown

MAX_STAGES = 64


def names_by_stage(shares: Iterable[tuple[str, range]]) -> list[str]:
    """The name of each stage, stage 0 first, from names and their stages.

    Raises InvalidRequest, which names the stage, unless the shares cover 0, 1, 2, … once each.
    """
    names: dict[int, str] = {}
    for name, stages in shares:
        _share(names, name, stages)
    missing = next((stage for stage in range(len(names)) if stage not in names), None)
    if missing is not None:
        raise _wrong(f"stage {missing} has no style; cover 0 to {max(names)}, each once")
    return [names[stage] for stage in range(len(names))]


def _share(names: dict[int, str], name: str, stages: range) -> None:
    """Enter `name` for its stages."""
    if not isinstance(stages, range):
        raise _wrong(
            f"{shown(stages)} of {name!r} is not a range of stages; pass e.g. range(0, 3); a weight belongs in adapters"
        )
    if not stages:
        raise _wrong(f"{stages!r} of {name!r} is empty; pass e.g. range(0, 3), which is 0, 1 and 2")
    for stage in stages:
        if not 0 <= stage < MAX_STAGES:
            raise _wrong(f"stage {stage} of {name!r} is out of range; pass 0 to {MAX_STAGES - 1}")
        if stage in names:
            raise _wrong(f"stage {stage} has both {names[stage]!r} and {name!r}; give it one of them")
        names[stage] = name


def _wrong(problem: str) -> InvalidRequest:
    return InvalidRequest(f"STYLE: {problem}", "STYLE")

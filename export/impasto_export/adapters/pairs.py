"""Adapters in pairs: one half for the first stage, one for the second.

The first half may stand alone; the second stage then runs without an adapter. The second half alone is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from impasto_export.adapters.sources import Source
from impasto_export.architecture import Json
from impasto_export.errors import AdapterError
from impasto_export.spellings import TRANSFORMER, UPSCALER

# Graph -> the stage that runs it, in order.
STAGES = {TRANSFORMER: "base", UPSCALER: "upscale"}
# Names of modules in the second stage's network: those of its two stacks of layers.
MODULE = re.compile(r"(low_)?layers\.\d+\..+")
ALONE = "it is only the second stage's half of a pair"
GIVE = "give the base's half, and this one as --upscaler"


def stages(graphs: Collection[str]) -> Json:
    """The record's entry on the stages of an adapter for these graphs; none for the first stage alone."""
    found = [stage for graph, stage in STAGES.items() if graph in graphs]
    return {"stages": found} if UPSCALER in graphs else {}


def of_second(modules: Iterable[str]) -> bool:
    """Whether these names, at least one, are all modules of the second stage."""
    named = list(modules)
    return bool(named) and all(MODULE.fullmatch(name) for name in named)


def check_order(source: Source, base: Collection[str], second: Collection[str]) -> None:
    """Raises AdapterError for a folder whose two files, with modules of these names, are in each other's place."""
    swapped = of_second(base) and second and not of_second(second)
    if source.place.is_dir() and source.second is not None and swapped:
        first, other = source.files[0].name, source.second.place.name
        raise AdapterError(f"{source}: {first} holds the second stage's half, and {other} the base's; swap the two")


def check_bundle(source: Source, paired: bool, manifest: Json) -> None:
    """Raises AdapterError for a `paired` adapter where the bundle has one stage."""
    if paired and UPSCALER not in manifest["graphs"]:
        problem = f"it has a half for the second stage, but the bundle {manifest.get('name')!r} has one stage"
        fix = "import only the base's file, or give --bundle of a checkpoint with both stages"
        raise AdapterError(f"{source}: {problem}; {fix}")


def check_whole(source: Source, graphs: Collection[str]) -> None:
    """Raises AdapterError for a second half alone."""
    if UPSCALER in graphs and TRANSFORMER not in graphs:
        raise AdapterError(f"{source}: {ALONE}; {GIVE}")


def problems(record: Json, graphs: Collection[str]) -> list[str]:
    """What is wrong with the stages of a registered adapter with this `record`, which has tensors for `graphs`."""
    if UPSCALER in graphs and TRANSFORMER not in graphs:
        return [f"{ALONE}; import it again, with the base's half"]
    said, held = record.get("stages"), stages(graphs).get("stages")
    what = f"its header names the stages {_listed(said)}, but its tensors are of {_listed(held)}"
    return [] if said == held else [f"{what}; import it again from its source files"]


def misfits(record: Json, graphs: Collection[str], manifest: Json) -> list[str]:
    """The problem of a pair where the bundle has one stage."""
    paired = UPSCALER in graphs or "stages" in record
    problem = "it is a pair, but the bundle has one stage; import the base's half alone, under another name"
    return [problem] if paired and UPSCALER not in manifest["graphs"] else []


def _listed(stages: object) -> str:
    return " and ".join(map(str, stages)) if isinstance(stages, list) else STAGES[TRANSFORMER]

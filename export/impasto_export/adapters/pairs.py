"""Adapters in pairs: what an adapter of a cascade has for its second stage, beside what it has for the first.

One may have a first half alone: it paints the second stage plain. A second half without a first is nobody's style.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from impasto_export.adapters.sources import Source
from impasto_export.architecture import Json
from impasto_export.errors import AdapterError
from impasto_export.spellings import TRANSFORMER, UPSCALER

# The stages of a cascade, in their order, by the graphs that run in them.
STAGES = {TRANSFORMER: "base", UPSCALER: "upscale"}
# How the modules of a second stage's network are called: those of its two stacks.
MODULE = re.compile(r"(low_)?layers\.\d+\..+")
ALONE = "it is the half of a pair for the second stage alone"
GIVE = "give the base's half, and this one as --upscaler"


def stages(graphs: Collection[str]) -> Json:
    """What a record says of an adapter with factors for these graphs: its stages, where they are two."""
    found = [stage for graph, stage in STAGES.items() if graph in graphs]
    return {"stages": found} if UPSCALER in graphs else {}


def of_second(modules: Iterable[str]) -> bool:
    """Whether all of these names, one at least, are a second stage's modules."""
    named = list(modules)
    return bool(named) and all(MODULE.fullmatch(name) for name in named)


def check_bundle(source: Source, paired: bool, manifest: Json) -> None:
    """Raises AdapterError for what is `paired` where the bundle has one stage."""
    if paired and UPSCALER not in manifest["graphs"]:
        problem = f"it has a half for the second stage, and the bundle {manifest.get('name')!r} has one stage"
        fix = "import the base's half alone, by its own file, or give --bundle of a checkpoint with both stages"
        raise AdapterError(f"{source}: {problem}; {fix}")


def check_whole(source: Source, graphs: Collection[str]) -> None:
    """Raises AdapterError for a second half alone."""
    if UPSCALER in graphs and TRANSFORMER not in graphs:
        raise AdapterError(f"{source}: {ALONE}; {GIVE}")


def problems(record: Json, graphs: Collection[str]) -> list[str]:
    """What is wrong with a registered adapter of this `record`, which has factors for `graphs`, as a pair."""
    if UPSCALER in graphs and TRANSFORMER not in graphs:
        return [f"{ALONE}; import it again, with the base's half"]
    said, held = record.get("stages"), stages(graphs).get("stages")
    what = f"its header says that its stages are {_listed(said)}, and its tensors are of {_listed(held)}"
    return [] if said == held else [f"{what}; import it again from its source files"]


def misfits(record: Json, graphs: Collection[str], manifest: Json) -> list[str]:
    """Of one that is a pair, where the bundle has one stage."""
    paired = UPSCALER in graphs or "stages" in record
    problem = "it is a pair, and the bundle has one stage; import the base's half alone for it, under another name"
    return [problem] if paired and UPSCALER not in manifest["graphs"] else []


def _listed(stages: object) -> str:
    return " and ".join(map(str, stages)) if isinstance(stages, list) else STAGES[TRANSFORMER]

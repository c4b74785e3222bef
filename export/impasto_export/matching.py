"""The skeleton that fits a checkpoint's configs, or what keeps the nearest one from fitting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from impasto_export import support
from impasto_export.architecture import Architecture, Json, load
from impasto_export.errors import CheckpointError, UnknownArchitecture, listing
from impasto_export.families import END_OF_TEXT, PARTS, UNNAMED, class_of, end_of_text

# Hints on numerical formats, for eager torch: a graph is float32 throughout, and its engine chooses what it runs in.
FORMATS = {"upcast_attention"}


def differences(architecture: Architecture, configs: Mapping[str, Json]) -> list[str]:
    """Where the checkpoint's configs depart from the architecture's; empty when it is of this architecture.

    Keys that the component's class does not know tell nothing of it; see `strangers`.
    """
    found = []
    for name, component in architecture.components.items():
        kind = class_of(configs[name])
        if kind not in (component.class_name, UNNAMED):
            found.append(f"{name}: checkpoint {kind}, architecture {component.class_name}")
        given = {**component.defaults, **PARTS[component.class_name].facts(configs[name])}
        for key in sorted(component.config.keys() - FORMATS):
            have, want = given.get(key), component.config.get(key)
            if not _same(key, have, want, component.config):
                found.append(f"{name}.{key}: checkpoint {have!r}, architecture {want!r}")
    return found


def strangers(architecture: Architecture, configs: Mapping[str, Json]) -> tuple[str, ...]:
    """Notes on what the configs say that their classes do not know, such as a training run's settings."""
    found = []
    for name, component in architecture.components.items():
        given = PARTS[component.class_name].facts(configs[name])
        known = component.config.keys() | component.defaults.keys()
        odd = sorted(key for key, value in given.items() if key not in known and not _absent(value, None))
        if odd:
            held = ", ".join(odd)
            found.append(f"{name}: {held} in its config: not known to a {component.class_name}, and ignored")
    return tuple(found)


def _same(key: str, have: Any, want: Any, config: Json) -> bool:
    """Whether two values ask for the same graph, whichever library version wrote them down."""
    if key == END_OF_TEXT:
        have, want = (end_of_text(value, config["vocab_size"]) for value in (have, want))
    return have == want or _absent(have, want) or _spread(have, want) or _spread(want, have)


def _absent(have: Any, want: Any) -> bool:
    """null and false are the same to both libraries."""
    return all(value is None or value is False for value in (have, want))


def _spread(one: Any, each: Any) -> bool:
    """One value for all blocks, or the same one for each."""
    return isinstance(each, list) and not isinstance(one, list) and bool(each) and all(item == one for item in each)


def skeletons(folders: Iterable[Path]) -> dict[Path, Architecture]:
    """Every skeleton found directly in or one level below `folders`. Raises CheckpointError for one that has none."""
    found: dict[Path, Architecture] = {}
    for folder in folders:
        around = [folder, *sorted(folder.iterdir())] if folder.is_dir() else []
        paths = [path for path in around if (path / "architecture.json").is_file()]
        if not paths:
            raise CheckpointError(f"--graphs: {folder} holds no skeleton; `impasto export graphs` makes one")
        found |= {path: load(path) for path in paths}
    return found


def match(
    configs: Mapping[str, Json], folders: Iterable[Path], export: str = "graphs CHECKPOINT"
) -> tuple[Path, Architecture]:
    """The skeleton folder whose architecture the configs describe. Raises UnknownArchitecture with the nearest one, and
    GraphError for what no skeleton can be made of.

    `export` is the command that makes such skeletons, for the error.
    """
    support.check_fixed(configs)
    known = {path: found for path, found in skeletons(folders).items() if found.components.keys() == configs.keys()}
    apart = {path: differences(architecture, configs) for path, architecture in known.items()}
    for path, found in apart.items():
        if not found:
            return path, known[path]
    support.check(configs)
    advice = f"export its graphs once with `impasto export {export} --out DIR`, then link with --graphs DIR"
    if not apart:
        raise UnknownArchitecture(f"no graph skeletons found; {advice}")
    nearest = min(apart, key=lambda path: len(apart[path]))
    near = f"The nearest is {known[nearest].name}:\n{listing(apart[nearest])}"
    raise UnknownArchitecture(f"no skeleton fits this checkpoint; {advice}. {near}")

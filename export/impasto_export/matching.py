"""Find the skeleton that fits a checkpoint's configs, or say why the nearest one does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from impasto_export import support
from impasto_export.architecture import Architecture, Json, load
from impasto_export.errors import CheckpointError, UnknownArchitecture, listing
from impasto_export.families import END_OF_TEXT, PARTS, UNNAMED, class_of, end_of_text

# Hints on number formats, for eager torch. A graph is float32 throughout; its engine chooses what it runs in.
FORMATS = {"upcast_attention"}


def differences(architecture: Architecture, configs: Mapping[str, Json]) -> list[str]:
    """Where the checkpoint's configs differ from the architecture's; empty when it is of this architecture.

    Keys that the component's class does not know are not compared; see `strangers`.
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
    """Notes on config keys that the components' classes do not know, such as a training run's settings."""
    found = []
    for name, component in architecture.components.items():
        given = PARTS[component.class_name].facts(configs[name])
        known = component.config.keys() | component.defaults.keys()
        odd = sorted(key for key, value in given.items() if key not in known and not _absent(value, None))
        if odd:
            held = ", ".join(odd)
            found.append(f"{name}: its config has {held}, which a {component.class_name} does not know; ignored")
    return tuple(found)


def _same(key: str, have: Any, want: Any, config: Json) -> bool:
    """Whether two values mean the same graph, whichever library version wrote them."""
    if key == END_OF_TEXT:
        have, want = (end_of_text(value, config["vocab_size"]) for value in (have, want))
    return have == want or _absent(have, want) or _spread(have, want) or _spread(want, have)


def _absent(have: Any, want: Any) -> bool:
    """Whether both are null or false, which mean the same to both libraries."""
    return all(value is None or value is False for value in (have, want))


def _spread(one: Any, each: Any) -> bool:
    """Whether `each` lists the one value `one` for every block."""
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
    """The folder and architecture of the skeleton that the configs describe. Raises UnknownArchitecture that names the
    nearest one, and GraphError for configs that no skeleton can be made from.

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

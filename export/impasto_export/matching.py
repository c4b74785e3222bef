"""The skeleton that fits a checkpoint's configs, or what keeps the nearest one from fitting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from impasto_export.architecture import Architecture, Json, load
from impasto_export.errors import UnknownArchitecture, listing
from impasto_export.families import PARTS


def differences(architecture: Architecture, configs: Mapping[str, Json]) -> list[str]:
    """Where the checkpoint's configs depart from the architecture's; empty when it is of this architecture."""
    found = []
    for name, component in architecture.components.items():
        given = {**component.defaults, **PARTS[component.class_name].facts(configs[name])}
        for key in sorted(given.keys() | component.config.keys()):
            have, want = given.get(key), component.config.get(key)
            if have != want:
                found.append(f"{name}.{key}: checkpoint {have!r}, architecture {want!r}")
    return found


def skeletons(folders: Iterable[Path]) -> dict[Path, Architecture]:
    """Every skeleton found directly in or one level below `folders`."""
    found: dict[Path, Architecture] = {}
    for folder in folders:
        for path in [folder, *sorted(folder.iterdir())] if folder.is_dir() else []:
            if (path / "architecture.json").is_file():
                found[path] = load(path)
    return found


def match(
    configs: Mapping[str, Json], folders: Iterable[Path], export: str = "graphs CHECKPOINT"
) -> tuple[Path, Architecture]:
    """The skeleton folder whose architecture the configs describe. Raises UnknownArchitecture with the nearest one.

    `export` is the command that makes such skeletons, for the error.
    """
    known = {path: found for path, found in skeletons(folders).items() if found.components.keys() == configs.keys()}
    apart = {path: differences(architecture, configs) for path, architecture in known.items()}
    for path, found in apart.items():
        if not found:
            return path, known[path]
    advice = f"export its graphs once with `impasto export {export} --out DIR`, then link with --graphs DIR"
    if not apart:
        raise UnknownArchitecture(f"no graph skeletons found; {advice}")
    nearest = min(apart, key=lambda path: len(apart[path]))
    near = f"The nearest is {known[nearest].name}:\n{listing(apart[nearest])}"
    raise UnknownArchitecture(f"no skeleton fits this checkpoint; {advice}. {near}")

"""The errors of export, link, merge and the adapter commands.

::

    ExportError
    ├── CheckpointError          the checkpoint cannot be read or served
    │   ├── UnknownArchitecture  no skeleton fits its configs
    │   └── MisfitCheckpoint     its tensors are not those of the architecture
    ├── ControlError             the ControlNet does not fit the checkpoint, or its hint is not described
    ├── GraphError               the architecture cannot be exported
    ├── BundleError              the folder is not a bundle, or is damaged
    ├── DiskFull                 the target's disk is full; the partial output was removed
    ├── AdapterError             the adapter cannot be imported or merged
    │   └── UnaccountedKeys      some of its keys have no place in the backbone
    ├── MergeError               the mix is malformed, or the bundle cannot take it
    ├── RegistryError            bad name, unknown name, damaged registry
    └── StoreError               an object store refuses something, or doesn't answer
"""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 12


def listing(items: Sequence[str]) -> str:
    """At most `SHOWN` items, one per line; says how many were left out."""
    lines = [f"  {item}" for item in items[:SHOWN]]
    if len(items) > SHOWN:
        lines.append(f"  … and {len(items) - SHOWN} more")
    return "\n".join(lines)


class ExportError(Exception):
    """The base class; str() is meant for the user."""


class CheckpointError(ExportError):
    """The checkpoint folder lacks a file, or a file in it cannot be used."""


class UnknownArchitecture(CheckpointError):
    """No graph skeleton was exported for these configs."""


class MisfitCheckpoint(CheckpointError):
    """Tensor names, shapes or dtypes differ from the architecture's; the attributes list every one."""

    def __init__(
        self,
        file: str,
        missing: Sequence[str],
        misfit: Sequence[str],
        unused: Sequence[str],
        architecture: str = "the architecture its configs name",
    ) -> None:
        self.file, self.missing, self.misfit, self.unused = file, tuple(missing), tuple(misfit), tuple(unused)
        parts = [f"{file} does not fit {architecture}"]
        for title, items in (("missing", missing), ("misfit", misfit), ("unused", unused)):
            if items:
                parts.append(f"{title} ({len(items)}):\n{listing(items)}")
        super().__init__("\n".join(parts))


class ControlError(ExportError):
    """The ControlNet is for another backbone, or the content of its hint is not stated or not known."""


class GraphError(ExportError):
    """torch could not turn the component into a graph, or the graph breaks the skeleton's rules."""


class BundleError(ExportError):
    """The folder is not a bundle, is damaged, or must not be overwritten."""


class DiskFull(ExportError):
    """The disk has no room for the folder; what was there before is unchanged."""


class AdapterError(ExportError):
    """The adapter is damaged, of an unsupported kind, or for another backbone."""


class UnaccountedKeys(AdapterError):
    """The import would have to drop keys of the file; `.keys` lists them all, each with the reason."""

    def __init__(self, file: str, keys: Sequence[str]) -> None:
        self.keys = tuple(keys)
        count = f"{len(keys)} problems" if len(keys) > 1 else "1 problem"
        problem = f"nothing was imported, since this bundle cannot take every key ({count})"
        super().__init__(f"{file}: {problem}:\n{listing(keys)}")


class MergeError(ExportError):
    """The mix does not parse, names an adapter twice, or does not go into this bundle."""


class RegistryError(ExportError):
    """A name is malformed, unknown or taken, or a stored file is not what its digest says."""


class StoreError(ExportError):
    """The address can't be opened, or the store refuses, doesn't answer, or has something else than it should."""

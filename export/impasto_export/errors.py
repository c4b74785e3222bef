"""Everything that can go wrong on the way to a bundle or a registered adapter.

::

    ExportError
    ├── CheckpointError          the folder is not a checkpoint that can be read
    │   ├── UnknownArchitecture  no skeleton fits its configs
    │   └── MisfitCheckpoint     its tensors are not those of the architecture
    ├── ControlError             the ControlNet does not fit the checkpoint, or its hint is not described
    ├── GraphError               an architecture cannot be exported
    ├── BundleError              the target is not a bundle, or not an intact one
    ├── DiskFull                 the target's disk has no room; nothing is left of the attempt
    ├── AdapterError             the adapter file cannot be imported, or not merged
    │   └── UnaccountedKeys      some of its keys have no place in the backbone
    ├── MergeError               the mix is not said rightly, or cannot be put into the bundle
    └── RegistryError            bad name, unknown name, damaged registry
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
    """Base of all; str() is meant for the user."""


class CheckpointError(ExportError):
    """The checkpoint folder lacks a file, or a file in it cannot be used."""


class UnknownArchitecture(CheckpointError):
    """No graph skeleton was exported for these configs."""


class MisfitCheckpoint(CheckpointError):
    """Tensor names, shapes or dtypes differ from the architecture's; all of them are in the attributes."""

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
    """The ControlNet is of another backbone than the checkpoint, or what its hint carries is not said or not known."""


class GraphError(ExportError):
    """torch could not turn the component into a graph, or the graph breaks the skeleton's rules."""


class BundleError(ExportError):
    """The folder is not a bundle, or must not be overwritten."""


class DiskFull(ExportError):
    """A folder could not be written for want of room; what was there before still is."""


class AdapterError(ExportError):
    """The adapter is damaged, of an unsupported kind, or of another backbone."""


class UnaccountedKeys(AdapterError):
    """What of the file the import would have to drop; all of it is in `.keys`, each with the reason."""

    def __init__(self, file: str, keys: Sequence[str]) -> None:
        self.keys = tuple(keys)
        count = f"{len(keys)} problems" if len(keys) > 1 else "1 problem"
        problem = f"nothing was imported, since this bundle cannot take all of it ({count})"
        super().__init__(f"{file}: {problem}:\n{listing(keys)}")


class MergeError(ExportError):
    """A mix that does not parse or names an adapter twice, a bundle that cannot take it, or a disk that cannot."""


class RegistryError(ExportError):
    """A name is malformed, unknown or taken, or a stored file is not what its digest says."""

"""Adapters of a cascade, which come in pairs: what one has for the first stage, and what it may have for the second.

One with factors of the first stage alone leaves the others plain; one of a later stage alone is half of a style.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from impasto_server.bundle import Manifest

FIRST = "base"  # what every family calls its first stage


def stages(header: Mapping[str, Any]) -> tuple[str, ...]:
    """Those that an adapter's header says; of one that says none the first alone."""
    found = header.get("stages")
    return tuple(map(str, found)) if isinstance(found, list) else (FIRST,)


def beyond(header: Mapping[str, Any], manifest: Manifest) -> list[str]:
    """The stages of an adapter that the bundle doesn't have."""
    return [stage for stage in stages(header) if stage not in manifest.backbones]


def wrong(header: Mapping[str, Any], graphs: Collection[str], manifest: Manifest) -> str:
    """What is wrong with an adapter that has factors for these `graphs`; "" where nothing is."""
    held = [stage for stage, graph in manifest.backbones.items() if graph in graphs]
    if held and FIRST not in held:
        return f"it is the half of a pair for the stage {held[0]} alone"
    said = stages(header)
    if set(said) - {FIRST} == set(held) - {FIRST}:  # one of the text encoders alone has none at all
        return ""
    return f"its header says that it is of {_listed(said)}, and its tensors are of {_listed(held)}"


def stray(keys: Sequence[str], kind: str, manifest: Manifest) -> str:
    """What is wrong with tensors that an adapter of the kind has no use for: half of it may be of another."""
    sites = {f"{graph}.{site.name}": site.kind for graph, spec in manifest.graphs.items() for site in spec.sites}
    for key in keys:
        other = sites.get(key.rpartition(".")[0], kind)
        if other != kind:
            return f"it is a {kind}, and {key} is of a {other}, where one adapter is of one kind, in all stages"
    return f"it holds tensors that belong nowhere: {', '.join(keys[:3])}"


def _listed(stages: Sequence[str]) -> str:
    return " and ".join(stages) or "no stage"

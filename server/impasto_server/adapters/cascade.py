"""Adapters of a cascade: factors for the first stage, and perhaps for later ones (a pair).

An adapter for the first stage alone leaves the others plain. One for a later stage alone is half a style and refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from impasto_server.bundle import Manifest
from impasto_server.errors import shown
from impasto_server.strangers import Unfit

FIRST = "base"  # the first stage's name in every family


def stages(header: Mapping[str, Any]) -> tuple[str, ...]:
    """The stages that an adapter's header names; the first alone where it names none.

    Raises Unfit for a list that isn't of different names.
    """
    found = header.get("stages")
    if not isinstance(found, list):
        return (FIRST,)
    if not all(isinstance(stage, str) for stage in found) or len({*found}) < len(found):
        raise Unfit(f"has the stages {shown(repr(found))}, which are not different names")
    return tuple(found)


def beyond(said: Sequence[str], manifest: Manifest) -> list[str]:
    """Those of an adapter's stages that the bundle doesn't have."""
    return [stage for stage in said if stage not in manifest.backbones]


def wrong(header: Mapping[str, Any], graphs: Collection[str], manifest: Manifest) -> str:
    """What is wrong with an adapter that has factors for these `graphs`; "" if nothing is."""
    held = [stage for stage, graph in manifest.backbones.items() if graph in graphs]
    if held and FIRST not in held:
        return f"it is half a pair, for the stage {held[0]} alone"
    said = stages(header)
    if set(said) - {FIRST} == set(held) - {FIRST}:  # an adapter of the text encoders alone has no stage at all
        return ""
    return f"its header says that it is for {_listed(said)}, but its tensors are for {_listed(held)}"


def stray(keys: Sequence[str], kind: str, manifest: Manifest) -> str:
    """What is wrong with tensors that an adapter of `kind` can't use; they may be of another kind."""
    sites = {f"{graph}.{site.name}": site.kind for graph, spec in manifest.graphs.items() for site in spec.sites}
    for key in keys:
        other = sites.get(key.rpartition(".")[0], kind)
        if other != kind:
            return f"it is a {kind}, but {key} is a {other}'s; an adapter has one kind in all stages"
    return f"it has tensors that fit nowhere: {', '.join(keys[:3])}"


def _listed(stages: Sequence[str]) -> str:
    return " and ".join(stages) or "no stage"

"""Foreign bottleneck adapters -> impasto's format: for each site, y + gelu(y @ A) @ B with A [D, H] and B [H, D]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_export.adapters import bottleneck_layouts
from impasto_export.adapters.bottleneck_layouts import Pair
from impasto_export.adapters.layers import site_sizes
from impasto_export.adapters.layouts import BACKBONES
from impasto_export.adapters.loras import Imported, sealed, words
from impasto_export.adapters.sources import Source
from impasto_export.architecture import BOTTLENECK, FORMAT, Json
from impasto_export.errors import AdapterError, UnaccountedKeys
from impasto_export.floats import finite

FAMILY = "masked"
GRAPH = BACKBONES[FAMILY]

recognises = bottleneck_layouts.recognises


def read(source: Source, manifest: Json, trigger: str | None = None, prompt: str = "") -> Imported:
    """Read a bottleneck adapter for the bundle that `manifest` describes.

    `prompt` is the template it was trained with, {context} in it; where it isn't given, the file may say it.

    Raises UnaccountedKeys when a tensor has no place in the bundle, AdapterError for anything else that is wrong.
    """
    widths = _widths(source, manifest)
    found = bottleneck_layouts.read(source, widths)
    _check(source, found.pairs, widths)
    record = {
        "format": FORMAT,
        "kind": BOTTLENECK,
        "family": FAMILY,
        "architecture": manifest["architecture"],
        "rank": max(pair.up[1].shape[0] for pair in found.pairs.values()),
        "sites": len(found.pairs),
        "gelu": found.gelu,
        "shared": found.shared,
        "source": source.facts(found.layout, found.assumed),
        **words(trigger, prompt or found.prompt),
    }
    tensors: dict[str, tuple[str, NDArray[Any]]] = {}
    for site, pair in found.pairs.items():
        where = f"{GRAPH}.{site}"
        tensors |= {f"{where}.A": pair.down, f"{where}.B": pair.up, f"{where}.scale": ("F32", np.array(1.0, "<f4"))}
    return sealed(tensors, record)


def _widths(source: Source, manifest: Json) -> dict[str, int]:
    """D by site. Raises AdapterError for a bundle of another family."""
    if manifest["family"] != FAMILY:
        problem = f"a bottleneck adapter is for bundles of the family {FAMILY}, this one's is {manifest['family']}"
        raise AdapterError(f"{source}: {problem}. Import it with --bundle of the checkpoint that it was trained on")
    return {site: size for site, (size, _) in site_sizes(manifest, BOTTLENECK).get(GRAPH, {}).items()}


def _check(source: Source, pairs: Mapping[str, Pair], widths: Mapping[str, int]) -> None:
    """Sites and shapes against the backbone; every value finite."""
    unknown = [
        f"{site}: names no place of this backbone that takes bottleneck adapters"
        for site in pairs.keys() - widths.keys()
    ]
    if unknown:
        raise UnaccountedKeys(str(source), sorted(unknown))
    if not pairs:
        raise AdapterError(f"{source} holds no tensors")
    for site, pair in pairs.items():
        down, up, width = pair.down[1].shape, pair.up[1].shape, widths[site]
        rank = down[-1] if len(down) == 2 else 0
        if rank < 1 or down != (width, rank) or up != (rank, width):
            problem = f"down {list(down)} and up {list(up)} do not fit a width of {width}"
            raise AdapterError(f"{source}: {site}: {problem}: an adapter of another backbone?")
        if not all(finite(array, dtype) for dtype, array in (pair.down, pair.up)):
            raise AdapterError(f"{source}: {site}: its sum with the shared pair is infinite")

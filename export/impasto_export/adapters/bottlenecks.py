"""Import bottleneck adapters into impasto's format: for each site, y + gelu(y @ A) @ B with A [D, H] and B [H, D]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_export.adapters import bottleneck_layouts, pairs
from impasto_export.adapters.bottleneck_layouts import Bottleneck, Pair
from impasto_export.adapters.layers import site_sizes
from impasto_export.adapters.layouts import BACKBONES
from impasto_export.adapters.loras import Imported, Tensors, sealed, words
from impasto_export.adapters.sources import Source
from impasto_export.architecture import BOTTLENECK, FORMAT, Json
from impasto_export.errors import AdapterError, UnaccountedKeys
from impasto_export.floats import finite
from impasto_export.spellings import UPSCALER

FAMILY = "masked"
GRAPH = BACKBONES[FAMILY]

recognises = bottleneck_layouts.recognises


def read(source: Source, manifest: Json, trigger: str | None = None, prompt: str = "") -> Imported:
    """Import a bottleneck adapter, or a pair of them, for the bundle that `manifest` describes.

    `prompt` is the template of its training, with {context} in it; if it isn't given, the file may state it.

    Raises UnaccountedKeys when a tensor has no place in the bundle, AdapterError for any other problem.
    """
    if manifest["family"] != FAMILY:
        problem = f"a bottleneck adapter is for bundles of the family {FAMILY}, this one's is {manifest['family']}"
        raise AdapterError(f"{source}: {problem}. Import it with --bundle of the checkpoint that it was trained on")
    pairs.check_bundle(source, source.second is not None, manifest)
    check_halves(source)
    graphs = dict(zip(pairs.STAGES, source.halves, strict=False))
    found = {graph: _half(half, graph, manifest) for graph, half in graphs.items()}
    first = found[GRAPH]
    record = {
        "format": FORMAT,
        "kind": BOTTLENECK,
        "family": FAMILY,
        "architecture": manifest["architecture"],
        "rank": max(pair.up[1].shape[0] for half in found.values() for pair in half.pairs.values()),
        "sites": sum(len(half.pairs) for half in found.values()),
        "gelu": first.gelu,
        "shared": any(half.shared for half in found.values()),
        **pairs.stages(found),
        "source": source.facts(first.layout, first.assumed + (source.left if UPSCALER in manifest["graphs"] else [])),
        **words(trigger, prompt or stated_prompt(source)),
    }
    tensors = {key: part for graph, half in found.items() for key, part in _tensors(graph, half.pairs).items()}
    return sealed(tensors, record)


def _half(source: Source, graph: str, manifest: Json) -> Bottleneck:
    """A file's adapter for a graph, with every value checked."""
    widths = {site: size for site, (size, _) in site_sizes(manifest, BOTTLENECK).get(graph, {}).items()}
    found = bottleneck_layouts.read(source, widths)
    _check(source, found.pairs, widths)
    return found


def check_halves(source: Source) -> None:
    """Raises AdapterError where the headers alone show that a half is the other stage's, or that two are no pair."""
    modules = [bottleneck_layouts.sites(half) for half in source.halves]
    if source.second is not None:
        pairs.check_order(source, *modules)
    for graph, half, sites in zip(pairs.STAGES, source.halves, modules, strict=False):
        _check_stage(half, graph, sites)
    _check_gelus(source)


def _check_stage(source: Source, graph: str, sites: list[str]) -> None:
    """Raises AdapterError for the other stage's half."""
    if graph == UPSCALER and bottleneck_layouts.layout(source) != "studio":
        raise AdapterError(f"--upscaler: {source} holds StyleDrop-PyTorch's tables, which are for the first stage")
    second, example = pairs.of_second(sites), next(iter(sites), "")
    if second and graph != UPSCALER:
        raise AdapterError(f"{source}: {pairs.ALONE} ({example}); {pairs.GIVE}")
    if sites and not second and graph == UPSCALER:
        problem = f"{source} adapts {example}, which is not in the second stage"
        raise AdapterError(f"--upscaler: {problem}; give the half that was trained on that stage")


def _check_gelus(source: Source) -> None:
    """Raises AdapterError where the halves' gelus differ."""
    kinds = [bottleneck_layouts.stated(half)[0] for half in source.halves]
    if len(set(kinds)) > 1:
        problem = f"the base's half has the {kinds[0]} gelu, {source.second} the {kinds[1]} one"
        raise AdapterError(f"--upscaler: {problem}; give halves that were trained together")


def stated_prompt(source: Source) -> str:
    """The prompt that the files state, if any. Raises AdapterError where they differ."""
    prompts = (bottleneck_layouts.stated(half)[1] for half in source.halves)
    said = list(dict.fromkeys(prompt for prompt in prompts if prompt))
    if len(said) > 1:
        problem = f"{source} and {source.second} were trained with {said[0]!r} and {said[1]!r}"
        raise AdapterError(f"--prompt: {problem}; give the one that requests should use")
    return said[0] if said else ""


def _tensors(graph: str, found: Mapping[str, Pair]) -> Tensors:
    tensors: dict[str, tuple[str, NDArray[Any]]] = {}
    for site, pair in found.items():
        where = f"{graph}.{site}"
        tensors |= {f"{where}.A": pair.down, f"{where}.B": pair.up, f"{where}.scale": ("F32", np.array(1.0, "<f4"))}
    return tensors


def _check(source: Source, found: Mapping[str, Pair], widths: Mapping[str, int]) -> None:
    """Raises UnaccountedKeys for unknown sites, AdapterError for shapes that don't fit and for infinite values."""
    unknown = [
        f"{site}: names no place of this backbone that takes bottleneck adapters"
        for site in found.keys() - widths.keys()
    ]
    if unknown:
        raise UnaccountedKeys(str(source), sorted(unknown))
    if not found:
        raise AdapterError(f"{source} holds no tensors")
    for site, pair in found.items():
        down, up, width = pair.down[1].shape, pair.up[1].shape, widths[site]
        rank = down[-1] if len(down) == 2 else 0
        if rank < 1 or down != (width, rank) or up != (rank, width):
            problem = f"down {list(down)} and up {list(up)} do not fit a width of {width}"
            raise AdapterError(f"{source}: {site}: {problem}; is the adapter for another backbone?")
        if not all(finite(array, dtype) for dtype, array in (pair.down, pair.up)):
            raise AdapterError(f"{source}: {site}: its sum with the shared pair is infinite")

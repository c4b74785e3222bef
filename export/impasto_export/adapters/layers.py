"""A bundle's layers that an adapter may change: their weights' shapes, and which of them have a bank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from impasto_export import parameters
from impasto_export.architecture import LORA, Json
from impasto_export.families import FEEDFORWARD

Shape = tuple[int, ...]
WEIGHT = ".weight"


@dataclass(frozen=True)
class Layer:
    """A layer; its weight has the `shape` [out, in] or [out, in, kh, kw]. `hot`: the graph has a bank for it, so it can
    be adapted per lane, without merging."""

    shape: Shape
    hot: bool


Layers = Mapping[str, Mapping[str, Layer]]
Sizes = Mapping[str, Mapping[str, tuple[int, int]]]


def of(manifest: Json, bundle: Path | None = None) -> Layers:
    """graph -> module -> layer, for the graphs that take LoRAs; for all graphs of a feed-forward net, which merging can
    change.

    Layers without a bank are read from the graphs in the folder `bundle`. Raises BundleError for a damaged one.
    """
    whole = manifest.get("family") == FEEDFORWARD
    sizes = {graph: sites for graph, sites in site_sizes(manifest).items() if sites or whole}
    weights = _weights(bundle, manifest) if bundle else {}
    return {graph: _layers(sites, weights.get(graph, {})) for graph, sites in sizes.items()}


def _layers(sites: Mapping[str, tuple[int, int]], weights: Mapping[str, Shape]) -> dict[str, Layer]:
    found = {name: Layer(shape, name in sites) for name, shape in weights.items()}
    return {**{name: Layer((out, into), True) for name, (into, out) in sites.items()}, **found}


def site_sizes(manifest: Json, kind: str = LORA) -> Sizes:
    """graph -> site -> (in_features, out_features), from a bundle's manifest, for adapters of this kind."""
    return {
        graph: {
            site["name"]: (site["in_features"], site["out_features"])
            for site in facts["sites"]
            if site.get("kind", LORA) == kind
        }
        for graph, facts in manifest["graphs"].items()
    }


def _weights(bundle: Path, manifest: Json) -> dict[str, dict[str, Shape]]:
    """graph -> module -> shape of its weight, for Linears and convolutions."""
    return {
        graph: {
            name.removesuffix(WEIGHT): parameter.tensor.shape
            for name, parameter in found.items()
            if name.endswith(WEIGHT) and len(parameter.tensor.shape) > 1
        }
        for graph, found in parameters.of(bundle, manifest).items()
    }

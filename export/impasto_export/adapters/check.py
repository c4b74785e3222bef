"""Check that a stored adapter is intact and fits a bundle."""

from __future__ import annotations

from pathlib import Path

from impasto_export.adapters import embeddings, layers, pairs
from impasto_export.adapters.layers import Layers, Sizes, site_sizes
from impasto_export.adapters.loras import DELTA
from impasto_export.adapters.registry import AnyRegistry
from impasto_export.architecture import LORA, VECTOR, Json
from impasto_export.floats import FLOATS, finite
from impasto_export.weights import Header, read_tensor, sha256_file


def problems(registry: AnyRegistry, name: str, manifest: Json | None = None, bundle: Path | None = None) -> list[str]:
    """All problems of the adapter, empty when there are none. With a `manifest`, it is also checked against that
    bundle, whose folder is `bundle`.

    Raises RegistryError when the name is unknown or the object cannot be read at all.
    """
    entry = registry.show(name)
    file = registry.file(entry.digest)
    if sha256_file(file) != entry.digest:
        return [f"{file}: its bytes do not match its digest; import the adapter again"]
    header = registry.header(entry.digest)
    found = [
        f"{key}: holds NaN or infinity"
        for key, tensor in header.tensors.items()
        if tensor.dtype in FLOATS and not finite(read_tensor(header, key), tensor.dtype)
    ]
    if entry.record.get("kind") == embeddings.KIND:
        return found if manifest is None else found + embeddings.misfits(header, manifest)
    graphs = {key.partition(".")[0] for key in header.tensors}
    found += pairs.problems(entry.record, graphs)
    if manifest is None:
        return found
    if entry.record.get("family", manifest["family"]) != manifest["family"]:
        found.append(f"it is for bundles of the family {entry.record['family']}, this one's is {manifest['family']}")
    if single := pairs.misfits(entry.record, graphs, manifest):
        return found + single  # or each tensor of the second stage would be reported
    if entry.record.get("architecture") != manifest["architecture"]:
        found.append(_elsewhere(entry.record, manifest))
    if entry.record.get("kind") == DELTA:
        return found + _unknown(header, layers.of(manifest, bundle))
    return found + _misfits(header, site_sizes(manifest, entry.record.get("kind", LORA)))


def _elsewhere(record: Json, manifest: Json) -> str:
    if "network" in record:
        return f"it is a style of the network {record['network']!r}, the bundle's is {manifest['name']!r}"
    return "it was imported for another architecture, or by an older impasto; import its source again"


def _unknown(header: Header, known: Layers) -> list[str]:
    """Layers that the bundle does not have. Shapes need no check: the architecture is the same."""
    named = {key.rpartition(".")[0] for key in header.tensors}
    found = {f"{graph}.{name}" for graph, modules in known.items() for name in modules}
    return [f"{where}: the bundle has no such layer" for where in sorted(named - found)]


def _misfits(header: Header, sizes: Sizes) -> list[str]:
    """Sites that the bundle does not have, or that have other sizes there."""
    found = []
    for key, tensor in sorted(header.tensors.items()):
        where, _, role = key.rpartition(".")
        graph, _, site = where.partition(".")
        size = sizes.get(graph, {}).get(site)
        if size is None:
            found.append(f"{key}: the bundle has no such site")
        elif role == VECTOR and tensor.shape != size[:1]:
            found.append(f"{key}: shape {list(tensor.shape)}, the network's vectors have {size[0]} numbers")
        elif role == "A" and (len(tensor.shape) != 2 or tensor.shape[0] != size[0]):
            found.append(f"{key}: shape {list(tensor.shape)}, the site has {size[0]} input features")
        elif role == "B" and (len(tensor.shape) != 2 or tensor.shape[1] != size[1]):
            found.append(f"{key}: shape {list(tensor.shape)}, the site has {size[1]} output features")
    return found

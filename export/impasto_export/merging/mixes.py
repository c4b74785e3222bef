"""A mix of registered adapters to merge: parse names and weights, and read the adapters behind them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from impasto_export.adapters import pairs
from impasto_export.adapters.embeddings import KIND as EMBEDDING
from impasto_export.adapters.loras import DELTA
from impasto_export.adapters.registry import AnyRegistry, Entry
from impasto_export.architecture import BOTTLENECK, LORA, Json, canonical_json
from impasto_export.errors import AdapterError, MergeError
from impasto_export.floats import FLOAT32, FLOATS, as_float, float32
from impasto_export.merging.deltas import Change
from impasto_export.weights import Header, read_tensor, sha256_file

REFUSED = {
    BOTTLENECK: "a bottleneck adapter, which puts a gelu after a layer, so no weight can hold it",
    EMBEDDING: "an embedding, which prompts use and which changes no weight",
}
SCALE = "scale"
# Roles of a whole difference, of a weight and of its bias.
DIFF, DIFF_BIAS = "diff", "diff_b"


@dataclass(frozen=True)
class Ingredient:
    """One adapter of the mix; `roles`: (graph, weight) -> role -> the tensor's key in `header`."""

    name: str
    digest: str
    weight: float
    header: Header
    roles: Mapping[tuple[str, str], Mapping[str, str]]

    @property
    def record(self) -> Json:
        """The manifest's entry."""
        return {"name": self.name, "digest": self.digest, "weight": self.weight}

    def change(self, graph: str, parameter: str) -> Change:
        """The change of one weight, read from the file. Raises AdapterError when it lacks a scale of one number."""
        where = f"adapter {self.name!r}: {graph}.{parameter}"
        keys = dict(self.roles[graph, parameter])
        strength = self.weight * self._scale(where, keys.pop(SCALE, None), whole=DIFF in keys)
        parts = {
            role: float32(read_tensor(self.header, key), self.header.tensors[key].dtype) for role, key in keys.items()
        }
        return Change(where, parts, strength)

    def _scale(self, where: str, key: str | None, whole: bool) -> float:
        """The scale; 1 for a whole difference, which has none."""
        if key is None and whole:
            return 1.0
        if key is None or math.prod(self.header.tensors[key].shape) != 1:
            raise AdapterError(f"{where} has no scale; import it again from its source file")
        return as_float(read_tensor(self.header, key), self.header.tensors[key].dtype)


def parse(texts: Sequence[str]) -> list[tuple[str, float]]:
    """Names and weights from texts NAME or NAME:WEIGHT, in order. Raises MergeError for any other text, and for a name
    that occurs twice."""
    pairs = []
    for text in texts:
        name, colon, weight = text.partition(":")
        pairs.append((name, _weight(text, weight) if colon else 1.0))
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise MergeError(f"--adapter: {twice!r} is named twice; name it once, with its whole weight")
    return pairs


def _weight(text: str, weight: str) -> float:
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not FLOAT32.tiny <= abs(value) <= FLOAT32.max:
        raise MergeError(f"--adapter: got {text!r}; expected NAME:WEIGHT, with a weight other than 0")
    return value


def gather(registry: AnyRegistry, pairs: Sequence[tuple[str, float]], manifest: Json) -> list[Ingredient]:
    """The adapters behind the names, for the bundle that `manifest` describes.

    Raises RegistryError for an unknown name or a damaged object, AdapterError for an adapter that does not fit the
    bundle or cannot be merged, MergeError for two names of one adapter.
    """
    mix = [_ingredient(registry.show(name), registry, weight, manifest) for name, weight in pairs]
    names = {item.digest: item.name for item in reversed(mix)}
    for item in mix:
        if names[item.digest] != item.name:
            problem = f"{names[item.digest]!r} and {item.name!r} are the same adapter"
            raise MergeError(f"--adapter: {problem}; name it once, with its whole weight")
    return mix


def _ingredient(entry: Entry, registry: AnyRegistry, weight: float, manifest: Json) -> Ingredient:
    record, kind = entry.record, entry.record.get("kind")
    file = registry.file(entry.digest)
    if sha256_file(file) != entry.digest:
        raise AdapterError(f"{file}: its bytes do not match its digest; import the adapter again")
    if kind in REFUSED:
        raise AdapterError(f"--adapter: {entry.name!r} is {REFUSED[kind]}; serve it from the registry instead")
    if kind not in (LORA, DELTA):
        raise AdapterError(f"--adapter: {entry.name!r} is of the kind {kind!r}, which cannot be merged")
    header = registry.header(entry.digest)
    roles = _roles(entry.name, header)
    graphs = {graph for graph, _ in roles}
    if wrong := pairs.problems(record, graphs) or pairs.misfits(record, graphs, manifest):
        raise AdapterError(f"--adapter: {entry.name!r}: {wrong[0]}")
    for field in ("family", "architecture"):
        if record.get(field) != manifest[field]:
            problem = f"is for the {field} {str(record.get(field))[:12]}, the bundle's is {manifest[field][:12]}"
            raise AdapterError(f"--adapter: {entry.name!r} {problem}; import its source again for this bundle")
    return Ingredient(entry.name, entry.digest, weight, header, roles)


def _roles(name: str, header: Header) -> dict[tuple[str, str], dict[str, str]]:
    found: dict[tuple[str, str], dict[str, str]] = {}
    for key, tensor in header.tensors.items():
        where, _, role = key.rpartition(".")
        graph, _, module = where.partition(".")
        if tensor.dtype not in FLOATS or not module:
            problem = f"{key} has dtype {tensor.dtype} or names no weight"
            raise AdapterError(f"adapter {name!r}: {problem}; import it again from its source file")
        parameter, part = ("bias", DIFF) if role == DIFF_BIAS else ("weight", role)
        found.setdefault((graph, f"{module}.{parameter}"), {})[part] = key
    return found


def digest(adapters: Sequence[Json]) -> str:
    """sha256 that identifies a mix by its manifest entries: which adapters with which weights, in any order.

    Weights count as float32, as requests carry them.
    """
    pairs = sorted((item["digest"], float(np.float32(item["weight"]))) for item in adapters)
    return hashlib.sha256(canonical_json(pairs)).hexdigest()

"""`impasto export merge`: make a bundle with adapters merged in; the changed weights are one more file. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from impasto_export import atomic, bundles, files, manifest, parameters, splice
from impasto_export.adapters.registry import AnyRegistry
from impasto_export.architecture import Json, canonical_json
from impasto_export.errors import MergeError
from impasto_export.files import Progress, silent
from impasto_export.merging import blends, mixes
from impasto_export.merging.blends import Place
from impasto_export.merging.mixes import Ingredient
from impasto_export.parameters import Parameter

MERGED = "merged"
# The largest weight that a request may have: no request could use a pinned mix with a larger one.
MAX_REQUESTED = 4.0


@dataclass(frozen=True)
class Merged:
    """The result of a merge. `file` is the new one, of so many `tensors` and `bytes`; `copied` are files that could not
    be hard-linked."""

    folder: Path
    name: str
    digest: str
    file: str
    tensors: int
    bytes: int
    copied: tuple[str, ...]


def merge(
    bundle: Path,
    adapters: Sequence[tuple[str, float]],
    out: Path,
    registry: AnyRegistry,
    pin: bool = False,
    progress: Progress = silent,
) -> Merged:
    """Write the bundle `out`: `bundle` with `adapters` (name, weight) merged into its weights; whole or not at all.

    Changed weights keep their dtype: adapters change them one by one in float32, and the result is rounded once. With
    `pin` the bundle's own graphs stay as they are, and the mix gets graphs beside them. Unchanged files are
    hard-linked: never write into a bundle's files.

    Raises BundleError, RegistryError, AdapterError for an adapter that cannot be merged into this bundle, MergeError
    for a mix that cannot be, and DiskFull.
    """
    bundles.check_target(out)
    base = manifest.load(bundle)
    mix = mixes.gather(registry, adapters, base)
    label = _label(bundle, base, mix, pin)
    stored = parameters.of(bundle, base)
    plan = blends.plan(stored, mix, before="" if pin else f"{MERGED}.safetensors")
    with atomic.folder(out) as draft:
        file = f"{label}.safetensors"
        moved, facts = blends.write(draft / file, bundle, plan, progress)
        graphs = {name: base["graphs"][name] for name, found in stored.items() if _changes(found, moved)}
        sources = _pinned_files(graphs, label) if pin else _files(graphs)
        for written, source in sources.items():
            (draft / written).write_bytes(_pointed(splice.read(bundle / source), moved))
        record = {**base, **(_pinned(base, mix, graphs, label) if pin else _merged(base, mix))}
        record["weights"] = {**base["weights"], file: facts}
        record["files"] = {**base["files"], **bundles.digests(draft, sources)}
        record["digest"] = manifest.digest(record)
        kept = {*record["weights"], *record["files"]} - {file, *sources}
        copied = [name for name in sorted(kept) if not files.place_file(bundle / name, draft / name, progress)]
        (draft / manifest.NAME).write_bytes(canonical_json(record))
    return Merged(out, record["name"], record["digest"], file, len(plan), facts["bytes"], tuple(copied))


def _label(bundle: Path, base: Json, mix: Sequence[Ingredient], pin: bool) -> str:
    """The new file's stem. Raises MergeError for a mix that this bundle, with its pinned mixes, cannot take."""
    pinned = base.get("pinned", [])
    if not pin:
        if pinned:
            problem = f"{bundle} has pinned mixes, which would keep the old weights"
            raise MergeError(f"{problem}; merge into the bundle without them, then pin them to the result")
        return MERGED
    beyond = [item for item in mix if abs(item.weight) > MAX_REQUESTED]
    if beyond:
        problem = f"{beyond[0].name!r} has the weight {beyond[0].weight:g}, but requests can only ask for -4 to 4"
        raise MergeError(f"--pin: {problem}; merge it without --pin")
    digest = mixes.digest([item.record for item in mix])
    if digest in [mixes.digest(entry["adapters"]) for entry in pinned]:
        raise MergeError(f"--pin: {bundle} already has this mix pinned; there is nothing to do")
    return f"pinned-{digest[:12]}"


def _changes(found: Mapping[str, Parameter], moved: Mapping[Place, Parameter]) -> bool:
    """Whether a graph that reads these tensors must be written again."""
    return any(blends.place(parameter) in moved for parameter in found.values())


def _files(graphs: Json) -> dict[str, str]:
    """Written file -> the file it is made from: each graph's, with sites and without, under the same name."""
    files = [file for facts in graphs.values() for file in (facts["file"], facts.get("plain")) if file]
    return {file: file for file in files}


def _pinned_files(graphs: Json, label: str) -> dict[str, str]:
    """Written file -> the file it is made from: one for each graph, without sites, since a pinned mix runs alone."""
    return {_pinned_file(facts, label): facts.get("plain", facts["file"]) for facts in graphs.values()}


def _pinned_file(facts: Json, label: str) -> str:
    return f"{label}.{facts['file']}"


def _pointed(model: ModelProto, moved: Mapping[Place, Parameter]) -> bytes:
    """The serialised graph, with moved tensors read from their new places."""
    for item in model.graph.initializer:
        entries = {entry.key: entry for entry in item.external_data}
        found = moved.get((entries["location"].value, int(entries["offset"].value))) if entries else None
        if found:
            entries["location"].value, entries["offset"].value = found.file, str(found.tensor.offset)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _merged(base: Json, mix: Sequence[Ingredient]) -> Json:
    return {"merged": [*base.get("merged", []), *(item.record for item in mix)]}


def _pinned(base: Json, mix: Sequence[Ingredient], graphs: Json, label: str) -> Json:
    entry = {
        "adapters": [item.record for item in mix],
        "graphs": {graph: {"file": _pinned_file(facts, label)} for graph, facts in graphs.items()},
    }
    return {"pinned": [*base.get("pinned", []), entry]}

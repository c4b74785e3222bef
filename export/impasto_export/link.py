"""`impasto link`: checkpoint + skeleton -> bundle, without torch, and without a copy of weights that can be linked."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from impasto_export import atomic, control, families, manifest, matching, splice, tokenizer
from impasto_export.architecture import SHIPPED, Architecture, Graph, Json, canonical_json, read_json
from impasto_export.control import Control
from impasto_export.errors import BundleError, CheckpointError, MisfitCheckpoint
from impasto_export.weights import Header, Tensor, read_header, sha256_file

TEXT_PREFIX = "text_model."
# What a text encoder with a projection has beside the text model.
TEXT_HEADS = ("text_projection.",)
# Where the text encoder of a masked checkpoint pools; transformers takes 2, which configs used to say in error, for the
# vocabulary's highest id.
POOLED_AT, LEGACY_END = "eos_token_id", 2
# Buffers that older checkpoints saved beside the weights; the graphs carry them as constants.
BUFFERS = ("position_ids",)
# The autoencoders' attention before diffusers renamed it.
AUTOENCODERS = ("vae", "vqvae")
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class Linked:
    """`reused`: the folder already held this very bundle. `copied`: files that could not be hard-linked."""

    folder: Path
    name: str
    architecture: str
    digest: str
    reused: bool
    copied: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """An architecture with the folder of its skeletons, the configs it was found by, and each component's weights."""

    folder: Path
    found: Architecture
    configs: Mapping[str, Json]
    weights: Mapping[str, Path]

    def models(self) -> dict[str, onnx.ModelProto]:
        return {name: splice.read(self.folder / graph.file) for name, graph in self.found.graphs.items()}


def link(
    checkpoint: Path,
    out: Path,
    graphs: Sequence[Path] = (),
    variant: str | None = None,
    steering: Control | None = None,
) -> Linked:
    """Make the bundle `out`; it appears whole or not at all, and is left alone when it is already this bundle.

    `graphs` are folders searched for skeletons before the shipped ones; `variant` picks `*.<variant>.safetensors`;
    `steering` adds a ControlNet. Raises UnknownArchitecture, MisfitCheckpoint, CheckpointError, ControlError, or
    BundleError when `out` is something else.
    The weights share their bytes with the checkpoint: replace its files to change it, never write into them.
    """
    check_target(out)
    base, *others = sources = _sources(checkpoint, [*graphs, SHIPPED], variant, steering)
    for other in others:
        control.check_fit(base.found, other.found)
    plan = {name: graph for source in sources for name, graph in source.found.graphs.items()}
    models = {name: model for source in sources for name, model in source.models().items()}
    headers = {part: read_header(path) for source in sources for part, path in source.weights.items()}
    tensors = {part: fit(part, header, _expected(plan, models, part)) for part, header in headers.items()}
    with atomic.folder(out) as draft:
        copied = [part for part, header in headers.items() if not place_file(header.path, draft / _weights(part))]
        for name, graph in plan.items():
            (draft / graph.file).write_bytes(splice.point(models[name], tensors[graph.component]))
        record = _describe(checkpoint, draft, base, plan, {"control": steering.facts} if steering else {})
        reused = _holds(out, record)
        if reused:
            shutil.rmtree(draft)
    names = tuple(_weights(part) for part in copied)
    return Linked(out, record["name"], base.found.digest, record["digest"], reused, () if reused else names)


def _sources(
    checkpoint: Path, skeletons: Sequence[Path], variant: str | None, steering: Control | None
) -> list[_Source]:
    """The checkpoint's, and after it the ControlNet's."""
    folders = {part: checkpoint / part for part in families.of(checkpoint).parts}
    base = _source(folders, skeletons, variant, "graphs CHECKPOINT")
    if steering is None:
        return [base]
    return [base, _source({control.NAME: steering.folder}, skeletons, variant, "controlnet FOLDER")]


def _source(parts: Mapping[str, Path], skeletons: Sequence[Path], variant: str | None, export: str) -> _Source:
    """`parts` are the components' folders. Raises UnknownArchitecture, or CheckpointError for a missing file."""
    configs = {part: read_json(folder / "config.json") for part, folder in parts.items()}
    folder, found = matching.match(configs, skeletons, export)
    stems = {part: families.PARTS[component.class_name].stem for part, component in found.components.items()}
    weights = {part: weights_path(place, stems[part], variant) for part, place in parts.items()}
    return _Source(folder, found, configs, weights)


def _weights(part: str) -> str:
    """The component's file in the bundle; skeletons point to it by this name."""
    return f"{part}.safetensors"


def check_target(out: Path) -> None:
    if out.exists() and not (out / manifest.NAME).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"{out} exists and is not a bundle; choose another folder")


def weights_path(folder: Path, stem: str, variant: str | None) -> Path:
    path = folder / f"{stem}{f'.{variant}' if variant else ''}.safetensors"
    if path.is_file():
        return path.resolve()
    others = ", ".join(sorted(item.name for item in path.parent.glob("*") if item.suffix != ".json")) or "nothing"
    raise CheckpointError(f"{path} is missing (the folder holds {others}); one safetensors file per component is read")


def _expected(plan: Mapping[str, Graph], models: Mapping[str, onnx.ModelProto], part: str) -> dict[str, splice.Slot]:
    """Placeholders of every graph that reads this component."""
    names = [name for name, graph in plan.items() if graph.component == part]
    return {key: slot for name in names for key, slot in splice.placeholders(models[name]).items()}


def fit(part: str, header: Header, expected: Mapping[str, splice.Slot]) -> dict[str, Tensor]:
    """The file's tensors under the graph's names. Raises MisfitCheckpoint naming every tensor that is not right."""
    stored = {canonical_name(part, name): tensor for name, tensor in header.tensors.items()}
    missing = sorted(expected.keys() - stored.keys())
    unused = sorted(name for name in stored.keys() - expected.keys() if not name.endswith(BUFFERS))
    misfit = [
        f"{name}: {stored[name].dtype} {list(stored[name].shape)}, the architecture has float {list(slot.shape)}"
        for name, slot in sorted(expected.items())
        if name in stored and (stored[name].shape != slot.shape or stored[name].dtype not in splice.ONNX_DTYPE)
    ]
    if missing or unused or misfit:
        raise MisfitCheckpoint(str(header.path), missing, misfit, unused)
    return stored


def canonical_name(part: str, name: str) -> str:
    """The one spelling that graphs use, whichever library version saved the tensor."""
    if part == "text_encoder":
        return name if name.startswith((TEXT_PREFIX, *TEXT_HEADS)) else TEXT_PREFIX + name
    if part in AUTOENCODERS and ".attentions." in name:
        head, _, last = name.rpartition(".")
        owner, _, layer = head.rpartition(".")
        return f"{owner}.{OLD_ATTENTION.get(layer, layer)}.{last}"
    return name


def place_file(source: Path, target: Path) -> bool:
    """Hard-link, else copy; True when linked. External data must lie in the graph's own folder."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        return False
    return True


def _describe(checkpoint: Path, draft: Path, base: _Source, plan: Mapping[str, Graph], extra: Json) -> Json:
    """Write tokenizer.json and manifest.json into the draft; the manifest."""
    folder, found = checkpoint / "tokenizer", base.found
    data, special = tokenizer.read(folder)
    (draft / "tokenizer.json").write_bytes(data)
    text = found.components["text_encoder"].config
    _check_end(folder, text, special["eos_id"])
    length = tokenizer.max_length(folder, text["max_position_embeddings"])
    facts = {
        **manifest.FACTS[found.family](checkpoint, found, base.configs),
        "tokenizer": {"file": "tokenizer.json", "max_length": length, **special},
        **extra,
    }
    components = dict.fromkeys(graph.component for graph in plan.values())
    weights = {_weights(part): file_facts(draft / _weights(part)) for part in components}
    files = digests(draft, [*(graph.file for graph in plan.values()), "tokenizer.json"])
    record = manifest.compose(found, checkpoint.resolve().name, facts, plan, weights, files)
    (draft / manifest.NAME).write_bytes(canonical_json(record))
    return record


def _check_end(folder: Path, text: Json, end: int) -> None:
    """Raises CheckpointError when a text encoder that pools would look for another end of text than is written."""
    if POOLED_AT not in text:
        return
    stated, highest = text[POOLED_AT], text["vocab_size"] - 1
    wanted = highest if stated == LEGACY_END else stated
    if end != wanted:
        problem = f"the tokenizer ends texts with id {end}, the text encoder's {POOLED_AT} {stated} means {wanted}"
        raise CheckpointError(f"{folder}: {problem}; correct the text encoder's config.json")


def file_facts(path: Path) -> Json:
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def _holds(out: Path, record: Json) -> bool:
    """Whether `out` is this very bundle: the same digest, and files that still have the digested bytes."""
    try:
        if manifest.load(out)["digest"] != record["digest"]:
            return False
        same = all(sha256_file(out / name) == facts["sha256"] for name, facts in record["weights"].items())
        return same and digests(out, record["files"]) == record["files"]
    except (BundleError, OSError):
        return False

"""`impasto link`: checkpoint + skeleton -> bundle, without torch, and without a copy of weights that can be linked."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from impasto_export import architecture, atomic, manifest, splice, tokenizer
from impasto_export.architecture import SHIPPED, Architecture, Json, canonical_json, read_json
from impasto_export.errors import BundleError, CheckpointError, MisfitCheckpoint
from impasto_export.weights import Header, Tensor, read_header, sha256_file

STEMS = {"text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
TEXT_PREFIX = "text_model."
# Buffers that older checkpoints saved beside the weights; the graphs carry them as constants.
BUFFERS = ("position_ids",)
# The VAE's attention before diffusers renamed it.
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


def link(checkpoint: Path, out: Path, graphs: Sequence[Path] = (), variant: str | None = None) -> Linked:
    """Make the bundle `out`; it appears whole or not at all, and is left alone when it is already this bundle.

    `graphs` are folders searched for skeletons before the shipped ones; `variant` picks `*.<variant>.safetensors`.
    Raises UnknownArchitecture, MisfitCheckpoint, CheckpointError, or BundleError when `out` is something else.
    The weights share their bytes with the checkpoint: replace its files to change it, never write into them.
    """
    _check_target(out)
    configs = {part: read_json(checkpoint / part / "config.json") for part in STEMS}
    folder, found = architecture.match(configs, [*graphs, SHIPPED])
    models = {name: splice.read(folder / graph.file) for name, graph in found.graphs.items()}
    headers = {part: read_header(_weights_path(checkpoint, part, variant)) for part in STEMS}
    tensors = {part: _fit(part, header, _expected(found, models, part)) for part, header in headers.items()}
    with atomic.folder(out) as draft:
        copied = [part for part, header in headers.items() if not _place(header.path, draft / f"{part}.safetensors")]
        for name, graph in found.graphs.items():
            (draft / graph.file).write_bytes(splice.point(models[name], tensors[graph.component]))
        record = _describe(checkpoint, draft, found, configs)
        reused = _holds(out, record)
        if reused:
            shutil.rmtree(draft)
    names = tuple(f"{part}.safetensors" for part in copied)
    return Linked(out, record["name"], found.digest, record["digest"], reused, () if reused else names)


def _check_target(out: Path) -> None:
    if out.exists() and not (out / manifest.NAME).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"{out} exists and is not a bundle; choose another folder")


def _weights_path(checkpoint: Path, part: str, variant: str | None) -> Path:
    path = checkpoint / part / f"{STEMS[part]}{f'.{variant}' if variant else ''}.safetensors"
    if path.is_file():
        return path.resolve()
    others = ", ".join(sorted(item.name for item in path.parent.glob("*") if item.suffix != ".json")) or "nothing"
    raise CheckpointError(f"{path} is missing (the folder holds {others}); one safetensors file per component is read")


def _expected(found: Architecture, models: Mapping[str, onnx.ModelProto], part: str) -> dict[str, splice.Slot]:
    """Placeholders of every graph that reads this component."""
    names = [name for name, graph in found.graphs.items() if graph.component == part]
    return {key: slot for name in names for key, slot in splice.placeholders(models[name]).items()}


def _fit(part: str, header: Header, expected: Mapping[str, splice.Slot]) -> dict[str, Tensor]:
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
        return name if name.startswith(TEXT_PREFIX) else TEXT_PREFIX + name
    if part == "vae" and ".attentions." in name:
        head, _, last = name.rpartition(".")
        owner, _, layer = head.rpartition(".")
        return f"{owner}.{OLD_ATTENTION.get(layer, layer)}.{last}"
    return name


def _place(source: Path, target: Path) -> bool:
    """Hard-link, else copy; True when linked. External data must lie in the graph's own folder."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        return False
    return True


def _describe(checkpoint: Path, draft: Path, found: Architecture, configs: Mapping[str, Json]) -> Json:
    """Write tokenizer.json and manifest.json into the draft; the manifest."""
    folder = checkpoint / "tokenizer"
    data, special = tokenizer.read(folder)
    (draft / "tokenizer.json").write_bytes(data)
    length = tokenizer.max_length(folder, found.components["text_encoder"].config["max_position_embeddings"])
    facts = {
        "latents": manifest.latents(found, configs["vae"]),
        "image": manifest.image(found, configs["unet"]),
        "scheduler": manifest.scheduler(checkpoint),
        "tokenizer": {"file": "tokenizer.json", "max_length": length, **special},
    }
    weights = {f"{part}.safetensors": _file_facts(draft / f"{part}.safetensors") for part in STEMS}
    files = _digests(draft, [*(graph.file for graph in found.graphs.values()), "tokenizer.json"])
    record = manifest.compose(found, checkpoint.resolve().name, facts, weights, files)
    (draft / manifest.NAME).write_bytes(canonical_json(record))
    return record


def _file_facts(path: Path) -> Json:
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}


def _digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def _holds(out: Path, record: Json) -> bool:
    """Whether `out` is this very bundle: the same digest, and files that still have the digested bytes."""
    try:
        if manifest.load(out)["digest"] != record["digest"]:
            return False
        same = all(sha256_file(out / name) == facts["sha256"] for name, facts in record["weights"].items())
        return same and _digests(out, record["files"]) == record["files"]
    except (BundleError, OSError):
        return False

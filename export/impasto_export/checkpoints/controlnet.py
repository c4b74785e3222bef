"""Read a ControlNet from a diffusers folder, a file of either layout, or a repository of the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from impasto_export import matching
from impasto_export.architecture import Architecture, Json, read_json
from impasto_export.checkpoints import fitting, folders, hub, resolve, sidecar
from impasto_export.checkpoints.checkpoint import Weights, label
from impasto_export.checkpoints.control import NAME
from impasto_export.checkpoints.fitting import Layout
from impasto_export.checkpoints.hub import Repository
from impasto_export.checkpoints.shards import Names, find
from impasto_export.errors import CheckpointError
from impasto_export.families import COMPANIONS, class_of
from impasto_export.weights import read_header

PART = COMPANIONS[NAME]
# A key of NAME.yaml beside the file, as in lllyasviel's shuffle.
POOLED = ("global_average_pooling",)
CONFIG, FILE = "config.json", f"{NAME}.safetensors"
# The layout of a file out of a diffusers folder; skeletons state the others.
DIFFUSERS: Json = {"parts": {NAME: {"prefix": "", "names": "diffusers"}}, "unused": []}
# Part of a key -> what the file is instead.
FOREIGN = {
    "difference": "a ControlNet's difference from a checkpoint's weights; get the whole ControlNet",
    "lora_controlnet": "a Control-LoRA, which steers with the checkpoint's own weights and is not served",
    "lora": "an adapter; import it with `impasto adapters import`",
    "model.diffusion_model.": "a checkpoint, not a ControlNet",
    "up_blocks.": "a part of a checkpoint, not a ControlNet",
    "add_embedding.": "an SDXL ControlNet; only Stable Diffusion 1.x's are served",
    "label_emb.": "an SDXL ControlNet; only Stable Diffusion 1.x's are served",
    "transformer_blocks.0.attn.add_q_proj": "a ControlNet of a family that is not served",
    "adapter.body.": "a T2I-Adapter, which impasto does not apply",
}


@dataclass(frozen=True)
class ControlNet:
    """A ControlNet; `found` is its architecture, `skeleton` that one's folder, `source` the manifest's entry on its
    origin; `notes` are for the user."""

    skeleton: Path
    found: Architecture
    weights: Mapping[str, Weights]
    source: Json
    notes: tuple[str, ...] = ()


def read(place: str | Path, skeletons: Sequence[Path], variant: str | None) -> ControlNet:
    """The ControlNet at `place`. Raises CheckpointError when it is none of these, UnknownArchitecture, or
    MisfitCheckpoint."""
    located = resolve.locate(place)
    if isinstance(located, Repository):
        folder = hub.model(located, PART, variant)
        return replace(_folder(folder, skeletons, variant), source=hub.source(located, folder))
    return _folder(located, skeletons, variant) if located.is_dir() else _file(located, skeletons)


def _folder(folder: Path, skeletons: Sequence[Path], variant: str | None) -> ControlNet:
    """A ControlNet's folder. `variant` is the checkpoint's: without it the plain files are read, as for parts."""
    if not (folder / CONFIG).is_file():
        fix = "give the folder of a diffusers ControlNetModel, or a file"
        raise CheckpointError(f"--controlnet: {folder} has no {CONFIG}; {fix}")
    match = _match(folder / CONFIG, skeletons)
    own = variant if find(folder, Names(PART.stem, variant)) else None
    weights, _ = folders.weights({NAME: folder}, {NAME: PART.stem}, own)
    notes: tuple[str, ...] = () if own == variant else (folders.plain_taken(NAME, variant),)
    notes += matching.strangers(match[1], {NAME: read_json(folder / CONFIG)})
    return ControlNet(*match, weights, {"checkpoint": label(folder.resolve().name)}, notes)


def _file(path: Path, skeletons: Sequence[Path]) -> ControlNet:
    """A ControlNet's file. The config beside it tells the architecture, or else the tensors' names and shapes."""
    header, beside = read_header(path), path.parent / CONFIG
    stated = beside.is_file() and class_of(read_json(beside)) == PART.class_name
    fit = fitting.nearest(header, _layouts([_match(beside, skeletons)[0]] if stated else skeletons), FILE, FOREIGN)
    _check_sidecar(path)
    weights = {NAME: Weights(path, fit.tensors[NAME], {FILE: path})}
    return ControlNet(fit.layout.skeleton, fit.layout.found, weights, {"checkpoint": label(path.name)})


def _check_sidecar(path: Path) -> None:
    """Raises CheckpointError where NAME.yaml says that the residuals are pooled, which no tensor tells."""
    place = sidecar.find(path)
    config = sidecar.load(place) if place else None
    for keys in (POOLED, ("control_stage_config", "params", *POOLED)):
        if config and config.at(*keys):
            raise CheckpointError(f"{config.path}: {POOLED[0]} is set, so its residuals are pooled; that is not served")


def _match(config: Path, skeletons: Sequence[Path]) -> tuple[Path, Architecture]:
    return matching.match({NAME: read_json(config)}, skeletons, "controlnet FOLDER")


def _layouts(skeletons: Sequence[Path]) -> list[Layout]:
    """The layouts of ControlNets: diffusers' for each, and those that skeletons state."""
    own = [Layout(path, found, DIFFUSERS) for path, found in matching.skeletons(skeletons).items()]
    return [layout for layout in (*own, *fitting.layouts(skeletons)) if layout.found.components.keys() == {NAME}]

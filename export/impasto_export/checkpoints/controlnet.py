"""A ControlNet, wherever it is read from: a diffusers folder, a file of either layout, or a repository of the hub."""

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
# In NAME.yaml beside a file, as lllyasviel's shuffle has it.
POOLED = ("global_average_pooling",)
CONFIG, FILE = "config.json", f"{NAME}.safetensors"
# A file out of a diffusers folder, beside the layouts that skeletons state.
DIFFUSERS: Json = {"parts": {NAME: {"prefix": "", "names": "diffusers"}}, "unused": []}
# A part of the keys of what is something else, and what that is.
FOREIGN = {
    "difference": "what a ControlNet adds to a checkpoint's weights; get the whole one",
    "lora_controlnet": "a Control-LoRA, which steers with the checkpoint's own weights and is not served",
    "lora": "an adapter; bring it in with `impasto adapters import`",
    "model.diffusion_model.": "a checkpoint; a ControlNet stands beside one",
    "up_blocks.": "a part of a checkpoint; a ControlNet stands beside one",
    "add_embedding.": "an SDXL ControlNet; only Stable Diffusion 1.x's are served",
    "label_emb.": "an SDXL ControlNet; only Stable Diffusion 1.x's are served",
    "transformer_blocks.0.attn.add_q_proj": "a ControlNet of a family that is not served",
    "adapter.body.": "a T2I-Adapter, which impasto does not apply",
}


@dataclass(frozen=True)
class ControlNet:
    """`found` is its architecture, `skeleton` the folder of that; `source` is what the manifest says of where it is
    from, `notes` are what the user should know."""

    skeleton: Path
    found: Architecture
    weights: Mapping[str, Weights]
    source: Json
    notes: tuple[str, ...] = ()


def read(place: str | Path, skeletons: Sequence[Path], variant: str | None) -> ControlNet:
    """Raises CheckpointError for what is none of them, UnknownArchitecture, or MisfitCheckpoint."""
    located = resolve.locate(place)
    if isinstance(located, Repository):
        folder = hub.model(located, PART, variant)
        return replace(_folder(folder, skeletons, variant), source=hub.source(located, folder))
    return _folder(located, skeletons, variant) if located.is_dir() else _file(located, skeletons)


def _folder(folder: Path, skeletons: Sequence[Path], variant: str | None) -> ControlNet:
    """The variant is the checkpoint's: without it, a ControlNet gives its plain files, as the checkpoint's parts do."""
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
    """By the config beside it where there is one; else names and shapes of its tensors tell the architecture."""
    header, beside = read_header(path), path.parent / CONFIG
    stated = beside.is_file() and class_of(read_json(beside)) == PART.class_name
    fit = fitting.nearest(header, _layouts([_match(beside, skeletons)[0]] if stated else skeletons), FILE, FOREIGN)
    _check_sidecar(path)
    weights = {NAME: Weights(path, fit.tensors[NAME], {FILE: path})}
    return ControlNet(fit.layout.skeleton, fit.layout.found, weights, {"checkpoint": label(path.name)})


def _check_sidecar(path: Path) -> None:
    """Raises CheckpointError where NAME.yaml says that the residuals are pooled: no tensor tells."""
    place = sidecar.find(path)
    config = sidecar.load(place) if place else None
    for keys in (POOLED, ("control_stage_config", "params", *POOLED)):
        if config and config.at(*keys):
            raise CheckpointError(f"{config.path}: {POOLED[0]} is set, so it hands over pooled residuals; not served")


def _match(config: Path, skeletons: Sequence[Path]) -> tuple[Path, Architecture]:
    return matching.match({NAME: read_json(config)}, skeletons, "controlnet FOLDER")


def _layouts(skeletons: Sequence[Path]) -> list[Layout]:
    """diffusers' own of every ControlNet, and those that are stated."""
    own = [Layout(path, found, DIFFUSERS) for path, found in matching.skeletons(skeletons).items()]
    return [layout for layout in (*own, *fitting.layouts(skeletons)) if layout.found.components.keys() == {NAME}]

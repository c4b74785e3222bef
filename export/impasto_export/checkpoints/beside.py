"""Notes of a link on what a checkpoint holds or states that is not read.

None of it reaches the bundle, so the user must be told.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from impasto_export import families
from impasto_export.architecture import read_json
from impasto_export.checkpoints.checkpoint import Checkpoint
from impasto_export.checkpoints.folders import TOKENIZERS
from impasto_export.weights import Header

# Other components of the pipelines, and what is missing without them.
UNREAD = {
    "safety_checker": "pictures are not checked",
    "image_encoder": "no picture stands in for a prompt, as with an IP-Adapter",
    "feature_extractor": "",  # of no use without one of those
}
# Settings of model_index.json that are read elsewhere, or need nothing.
SETTINGS = {"force_zeros_for_empty_prompt", "requires_aesthetics_score", "requires_safety_checker"}
WATERMARK = "add_watermarker"
# Files that training scripts leave beside the parts. diffusers doesn't load them by itself either.
LEARNED = ("learned_embeds*.safetensors", "learned_embeds*.bin", "pytorch_lora_weights.*")
# Tensors of a single file that belong to no part, but have a purpose.
TRAINING = {
    "model_ema.": "averaged weights; the plain ones are linked, as diffusers does",
    "embedding_manager.": "a textual inversion's vectors; import its file with `impasto adapters import`",
}
# Header entries of CLIP skip.
CLIP_SKIP = ("modelspec.encoder_layer", "ss_clip_skip")
# How many characters of a value are shown.
SHOWN = 40


def notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Notes on a folder; for a single file see `of_file`."""
    if not checkpoint.origin.is_dir():
        return ()
    index = families.INDEX
    parts = checkpoint.configs.keys() | {"scheduler"} | {TOKENIZERS[part] for part in checkpoint.tokenizers}
    found = [*_named(checkpoint, parts), *(f"{index}: {text}" for text in _settings(checkpoint, parts))]
    learned = sorted(path.name for pattern in LEARNED for path in checkpoint.origin.glob(pattern))
    fix = "not read; if you want it, import it with `impasto adapters import`"
    return (*found, *(f"{name} lies beside the parts: {fix}" for name in learned))


def _named(checkpoint: Checkpoint, parts: set[str]) -> Iterator[str]:
    """A note for each component that is not read."""
    for name, kind in _components(checkpoint).items():
        why = UNREAD.get(name, "impasto does not know what it is for")
        if name not in parts and why:
            yield f"{name} ({kind}) is not read: {why}"


def _components(checkpoint: Checkpoint) -> dict[str, str]:
    """Name -> class of the components in model_index.json; without one, of the folders that have a config."""
    if checkpoint.index:
        pairs = {name: value for name, value in checkpoint.index.items() if isinstance(value, list) and value}
        return {name: str(value[-1]) for name, value in pairs.items() if value != families.ABSENT and name[:1] != "_"}
    held = sorted(checkpoint.origin.glob("*/config.json"))
    return {path.parent.name: _class_of(path) for path in held}


def _class_of(path: Path) -> str:
    return families.class_of(read_json(path))


def _settings(checkpoint: Checkpoint, parts: set[str]) -> Iterator[str]:
    for key, value in checkpoint.index.items():
        if key.startswith("_") or key in parts or key in SETTINGS or isinstance(value, list) or not _says(value):
            continue
        if key == WATERMARK:
            yield f"{key} is {value!r}, but impasto puts no watermark into pictures"
        else:
            yield f"{key} is {str(value)[:SHOWN]}, which impasto does not know; it is ignored"


def _says(value: Any) -> bool:
    """Whether a setting is set."""
    return value is not None and value is not False


def of_file(header: Header, last: bool) -> Iterator[str]:
    """Notes on what a single file holds or states that is not read, and on files beside it that web UIs would read.

    `last`: the text comes from its encoder's last layer, not the one before.
    """
    for prefix, what in TRAINING.items():
        if any(name.startswith(prefix) for name in header.tensors):
            yield f"its {prefix}* are not read: {what}"
    usual = "1" if last else "2"
    for key in CLIP_SKIP:
        said = header.metadata.get(key, usual)
        if said not in (usual, "None", ""):
            yield f"its header's {key} (CLIP skip) is {said[:SHOWN]!r}, which is not honoured: impasto uses {usual}"
    for path in sorted(header.path.parent.glob(f"{glob.escape(header.path.stem)}.vae.*")):
        yield f"{path.name} beside it is not read, though web UIs take it for its VAE: its own is linked"

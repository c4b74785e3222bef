"""Read a checkpoint in the diffusers layout: a folder for each part, with safetensors in one file or in shards."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from impasto_export import families, spellings
from impasto_export.architecture import Json, read_json
from impasto_export.checkpoints import tokenizer
from impasto_export.checkpoints.checkpoint import Checkpoint, Said, Stored, Weights, label
from impasto_export.checkpoints.shards import Names, find, missing
from impasto_export.errors import CheckpointError
from impasto_export.weights import read_header

# Text encoder -> its tokenizer's folder.
TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.")


def read(folder: Path, said: Said) -> Checkpoint:
    """The checkpoint in `folder`. Raises CheckpointError for a missing file, for a family that is not served, and for
    options that only a single file needs."""
    for option, value in {"prediction": said.prediction, "spacing": said.spacing}.items():
        if value:
            raise CheckpointError(f"--{option}: got {value!r}; the folder's scheduler config states it, leave it out")
    family = families.of(folder)
    places = {part: folder / part for part in family.parts}
    stems = {part: facts.stem for part, facts in family.parts.items()}
    configs = {part: read_json(place / "config.json") for part, place in places.items()}
    found, notes = weights(places, stems, said.variant)
    index = folder / families.INDEX
    return Checkpoint(
        name=label(folder.resolve().name),
        origin=folder,
        family=family.name,
        configs=configs,
        weights={part: _counted(held, configs[part]) for part, held in found.items()},
        tokenizers=tokenizers(said.tokenizer or folder, family.parts),
        index=read_json(index) if index.is_file() else {},
        scheduler=read_json(folder / "scheduler" / "scheduler_config.json"),
        source={"checkpoint": label(folder.resolve().name)},
        notes=notes,
    )


def tokenizers(folder: Path, parts: Mapping[str, object]) -> dict[str, tokenizer.Vocabulary]:
    """The tokenizers of the text encoders among `parts`, each from its own folder; a single one may lie in `folder`."""
    wanted = {part: name for part, name in TOKENIZERS.items() if part in parts}
    if len(wanted) == 1 and not (folder / "tokenizer").is_dir() and (folder / "tokenizer_config.json").is_file():
        return {part: tokenizer.read(folder) for part in wanted}
    return {part: tokenizer.read(folder / name) for part, name in wanted.items()}


def weights(
    places: Mapping[str, Path], stems: Mapping[str, str], variant: str | None
) -> tuple[dict[str, Weights], tuple[str, ...]]:
    """Every part's weights, and notes. As in diffusers, a part without the variant falls back to its plain files, as
    long as some part has the variant.

    Raises CheckpointError that names what a folder holds instead.
    """
    varied = {part: find(place, Names(stems[part], variant)) for part, place in places.items()}
    lacking = [part for part, paths in varied.items() if variant and not paths]
    plain = {part: find(places[part], Names(stems[part])) for part in lacking if len(lacking) < len(places)}
    paths = {part: plain.get(part) or varied[part] for part in places}
    for part, found in paths.items():
        if not found:
            raise missing(places[part], Names(stems[part], variant))
    notes = tuple(plain_taken(part, variant) for part in lacking)
    return {part: _weights(part, places[part], found) for part, found in paths.items()}, notes


def _counted(held: Weights, config: Json) -> Weights:
    """`held` without text encoder layers beyond the config's number. CLIP skip is stated that way, and transformers
    does not read those layers either."""
    count = config.get("num_hidden_layers", math.inf)
    layers = {name: LAYER.match(name) for name in held.tensors}
    kept = {name: held.tensors[name] for name, found in layers.items() if found is None or int(found[1]) < count}
    return replace(held, tensors=kept)


def plain_taken(part: str, variant: str | None) -> str:
    """The note on a part without the variant."""
    return f"{part} has no {variant} files; its plain ones are linked, as diffusers does"


def _weights(part: str, place: Path, paths: tuple[Path, ...]) -> Weights:
    """A part's weights under canonical names, which graphs use. Raises CheckpointError for a tensor in two shards, or
    under two spellings."""
    names = [f"{part}.safetensors"]
    if len(paths) > 1:
        names = [f"{part}-{number:05}-of-{len(paths):05}.safetensors" for number in range(1, len(paths) + 1)]
    tensors: dict[str, Stored] = {}
    for file, path in zip(names, paths, strict=True):
        header = read_header(path)
        found = {
            name: Stored(file, header.tensors[own]) for name, own in _canonical(part, path, header.tensors).items()
        }
        if twice := found.keys() & tensors.keys():
            raise CheckpointError(f"{path}: {min(twice)} is also in another shard; get the shards of one index")
        tensors |= found
    return Weights(paths[0] if len(paths) == 1 else place, tensors, dict(zip(names, paths, strict=True)))


def _canonical(part: str, path: Path, names: Iterable[str]) -> dict[str, str]:
    """Canonical name -> the file's own. Raises CheckpointError for a tensor under two names."""
    found: dict[str, str] = {}
    for own in names:
        name = spellings.canonical(part, own)
        if name in found:
            raise CheckpointError(f"{path}: {found[name]} and {own} are two names of one tensor; remove one of them")
        found[name] = own
    return found

"""Import textual inversions into impasto's embedding format: for each text encoder, vectors [stages, vectors, width].

An ordinary inversion has one stage. Stage 0 is for the finest detail (the smallest training timesteps).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_export.adapters import embedding_layouts
from impasto_export.adapters.embedding_layouts import TOKEN_NUMBERS, Layout, Part
from impasto_export.adapters.loras import Imported, sealed
from impasto_export.adapters.sources import Source
from impasto_export.architecture import FORMAT, Json
from impasto_export.errors import AdapterError, UnaccountedKeys
from impasto_export.floats import FLOATS, finite
from impasto_export.weights import Header, read_tensor

KIND = "embedding"
# The text encoder's graph input for the vectors.
LEARNED = "learned_embeds"
# A text has a start and an end token; CLIP's text encoders read 77 tokens.
ENDS, CLIP_TOKENS = 2, 77
MAX_STAGES, MAX_VECTORS = 64, CLIP_TOKENS - ENDS
PROMPT, STYLE_PROMPT = "{context}, in the style of {style}", "A painting in the style of {style}"
# What A1111 saves beside the vectors.
NOTES = ("name", "step", "sd_checkpoint", "sd_checkpoint_name")
Vectors = tuple[str, NDArray[Any]]


@dataclass(frozen=True)
class Room:
    """What a bundle's text encoder takes: vectors of this width, at most `places` of them in a text."""

    width: int
    places: int


@dataclass(frozen=True)
class _Found:
    """What a file holds: its layout's name, its token if stated, and vectors by width."""

    layout: str
    token: str | None
    vectors: Mapping[int, Vectors]

    @property
    def told(self) -> Json:
        return {"token": self.token} if self.token else {}


def widths(manifest: Json) -> list[int]:
    """The widths of the bundle's text encoders."""
    return [room.width for room in _rooms(manifest).values()]


def recognises(source: Source, known: Collection[int] = ()) -> bool:
    """Whether its tensors are as wide as text encoders: public ones, or a bundle's, of the widths `known`."""
    return embedding_layouts.recognises(embedding_layouts.parts(source.headers), known)


def facts(source: Source) -> Json:
    """The facts of an embedding, without a bundle. Raises AdapterError for one that no bundle could take."""
    found = _found(source)
    stages, count = _sizes(str(source), [array for _, array in found.vectors.values()], MAX_VECTORS)
    return {
        "layout": found.layout,
        **found.told,
        "stages": stages,
        "vectors": count,
        "widths": [str(width) for width in found.vectors],
    }


def read(source: Source, manifest: Json, prompt: str = "", style_prompt: str = "") -> Imported:
    """Import an embedding for the bundle that `manifest` describes. `prompt` and `style_prompt` are the templates of
    its training; those not given are looked up in the file's metadata, under the same names.

    Raises UnaccountedKeys when a tensor is not part of an embedding, AdapterError for any other problem.
    """
    said = source.metadata
    templates, assumed = _templates(prompt or said.get("prompt", ""), style_prompt or said.get("style_prompt", ""))
    found, rooms = _found(source), _rooms(manifest)
    encoders = _encoders(str(source), found.vectors.keys(), rooms)
    most = min(MAX_VECTORS, *(room.places for room in rooms.values()))
    stages, count = _sizes(str(source), [array for _, array in found.vectors.values()], most)
    record = {
        "format": FORMAT,
        "kind": KIND,
        "family": manifest["family"],
        "stages": stages,
        "vectors": count,
        "widths": {graph: rooms[graph].width for graph in encoders.values()},
        **templates,
        "source": {**source.facts(found.layout, [*assumed, *source.joined]), **found.told},
    }
    return sealed({f"{encoders[width]}.vectors": part for width, part in found.vectors.items()}, record)


def misfits(header: Header, manifest: Json) -> list[str]:
    """Why a registered embedding does not fit the bundle; empty when it does."""
    shapes = {key.removesuffix(".vectors"): tensor.shape for key, tensor in header.tensors.items()}
    try:
        rooms = _rooms(manifest)
        _encoders("the embedding", {shape[-1] for shape in shapes.values()}, rooms)
    except AdapterError as error:
        return [str(error)]
    return [
        f"it has {shape[1]} vectors, {graph} has places for {rooms[graph].places}"
        for graph, shape in shapes.items()
        if shape[1] > rooms[graph].places
    ]


def _found(source: Source) -> _Found:
    """The file's content. Raises UnaccountedKeys for other entries than an embedding's, AdapterError for vectors that
    cannot be used."""
    strange = [key for key in source.notes if key not in NOTES and not key.startswith(TOKEN_NUMBERS)]
    if strange:
        raise UnaccountedKeys(str(source), [f"{key}: not part of an embedding" for key in strange])
    layouts = embedding_layouts.by_width(str(source), embedding_layouts.parts(source.headers))
    first, *_ = layouts.values()
    name = str(source.notes.get("name") or "") if first.name == "a1111" else ""
    vectors = {width: _stack(str(source), layout) for width, layout in layouts.items()}
    return _Found(first.name, name or first.token, vectors)


def _rooms(manifest: Json) -> dict[str, Room]:
    """The room in each text encoder that takes embeddings."""
    return {
        graph: Room(port["shape"][-1], port["shape"][1] - ENDS)
        for graph, facts in manifest["graphs"].items()
        for port in facts.get("inputs", ())
        if port["name"] == LEARNED
    }


def _encoders(what: str, found: Collection[int], rooms: Mapping[str, Room]) -> dict[int, str]:
    """Width -> the text encoder that vectors of it are for.

    Raises AdapterError unless there are vectors for each of the bundle's text encoders, and no others.
    """
    if not rooms:
        raise AdapterError("the bundle's text encoder takes no embeddings; link the checkpoint again")
    wanted, held = {room.width: graph for graph, room in rooms.items()}, set(found)
    if len(wanted) < len(rooms):
        problem = "the bundle's text encoders have the same width"
        raise AdapterError(f"{what}: {problem}, so its vectors don't tell which of them they are for")
    if wanted.keys() != held:
        have = " and ".join(map(str, sorted(held)))
        want = " and ".join(f"{graph} is {width}" for width, graph in wanted.items())
        missing = " and ".join(wanted[width] for width in sorted(wanted.keys() - held))
        lacks = f"those for {missing} are missing; give a file that holds both, or learned_embeds and learned_embeds_2"
        why = "it is for another backbone" if held - wanted.keys() else lacks
        raise AdapterError(f"{what}: its vectors are {have} wide, the bundle's {want} wide: {why}")
    return wanted


def _stack(source: str, layout: Layout) -> Vectors:
    """The vectors' dtype as stored, and [stages, vectors, width]. Raises AdapterError for tensors that are not vectors,
    or that differ in dtype or shape."""
    parts = [part for stage in layout.stages for part in stage]
    first, *others = parts
    dtype, shape = first.tensor.dtype, first.tensor.shape
    if dtype not in FLOATS:
        raise AdapterError(
            f"{source}: {first.key} is {dtype} {list(shape)}; F32, F16 or BF16 of [n, width] is expected"
        )
    other = next((part for part in others if (part.tensor.dtype, part.tensor.shape) != (dtype, shape)), None)
    if other is not None:
        unlike = f"{other.key} is {other.tensor.dtype} {list(other.tensor.shape)}"
        raise AdapterError(f"{source}: its tensors differ: {first.key} is {dtype} {list(shape)}, {unlike}")
    stages = [np.concatenate([_rows(part) for part in stage]) for stage in layout.stages]
    spoilt = [part.key for part in parts if not finite(_rows(part), dtype)]
    if spoilt:
        raise AdapterError(f"{source}: {', '.join(spoilt)} holds NaN or infinity")
    return dtype, np.stack(stages)


def _rows(part: Part) -> NDArray[Any]:
    return read_tensor(part.header, part.key).reshape(-1, part.tensor.shape[-1])


def _sizes(source: str, vectors: Iterable[NDArray[Any]], most: int) -> tuple[int, int]:
    """The numbers of stages and of vectors in each. Raises AdapterError beyond the limits, or where text encoders
    differ."""
    (stages, count), *others = {array.shape[:2] for array in vectors}
    if others:
        raise AdapterError(f"{source}: its text encoders have different numbers of vectors: {count}, {others[0][1]}")
    if not (1 <= stages <= MAX_STAGES and 1 <= count <= most):
        limits = f"1 to {MAX_STAGES} stages of 1 to {most} vectors are served"
        raise AdapterError(f"{source} has {stages} stages of {count} vectors; {limits}")
    return stages, count


def _templates(prompt: str, style_prompt: str) -> tuple[Json, list[str]]:
    """The templates of its training, and notes on those that were assumed. Raises AdapterError for a bad template."""
    assumed = [
        f"{option} is not stated: {default!r} taken, as in the paper"
        for option, given, default in (("prompt", prompt, PROMPT), ("style prompt", style_prompt, STYLE_PROMPT))
        if not given
    ]
    prompt, style_prompt = prompt or PROMPT, style_prompt or STYLE_PROMPT
    if prompt.count("{context}") != 1 or prompt.count("{style}") != 1:
        raise AdapterError(f"--prompt: got {prompt!r}; it must contain {{context}} and {{style}}, each once")
    if style_prompt.count("{style}") != 1 or "{context}" in style_prompt:
        raise AdapterError(f"--style-prompt: got {style_prompt!r}; it must contain {{style}} once, and no {{context}}")
    return {"prompt": prompt, "style_prompt": style_prompt}, assumed

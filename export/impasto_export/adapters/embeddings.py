"""Foreign textual inversions -> impasto's embedding format: for each text encoder, vectors [stages, vectors, width].

An ordinary inversion has one stage. Stage 0 is the finest detail (the smallest training timesteps).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_export.adapters import embedding_layouts, sources
from impasto_export.adapters.embedding_layouts import Layout
from impasto_export.adapters.loras import Imported, metadata
from impasto_export.adapters.sources import Source
from impasto_export.architecture import FORMAT, Json
from impasto_export.errors import AdapterError, UnaccountedKeys
from impasto_export.floats import FLOATS, finite
from impasto_export.weights import Header, encode, read_tensor

KIND = "embedding"
# The graph input that takes their place in a text encoder.
LEARNED = "learned_embeds"
MAX_STAGES, MAX_VECTORS = 64, 32
PROMPT, STYLE_PROMPT = "{context}, in the style of {style}", "A painting in the style of {style}"
# What A1111 writes down beside the vectors.
NOTES = ("name", "step", "sd_checkpoint", "sd_checkpoint_name")
TOKEN_NUMBERS = "string_to_token/"
Vectors = tuple[str, NDArray[Any]]


def recognises(source: Source) -> bool:
    """Whether the tensors' names speak of an embedding."""
    try:
        return embedding_layouts.recognise(str(source), _keys(source.headers[0])) is not None
    except AdapterError:
        return True


def facts(source: Source) -> Json:
    """What is told of an embedding by its file alone. Raises AdapterError for one that no bundle could take."""
    (header,) = source.headers
    layout = _layout(str(source), header, source.notes)
    vectors = {graph: _stack(str(source), header, stages)[1] for graph, stages in layout.keys.items()}
    stages, count = _sizes(str(source), vectors.values())
    return {
        "layout": layout.name,
        **({"token": layout.token} if layout.token else {}),
        "stages": stages,
        "vectors": count,
        "widths": {graph: str(array.shape[2]) for graph, array in vectors.items()},
    }


def convert(source: Path, manifest: Json, prompt: str = "", style_prompt: str = "") -> Imported:
    """Read an embedding for the bundle that `manifest` describes; `prompt` and `style_prompt` are how it was trained.

    Where they aren't given they are looked for in the file's metadata, under the same names.

    Raises UnaccountedKeys when a tensor has no place in it, AdapterError for anything else that is wrong.
    """
    with sources.opened(source) as opened:
        return read(opened, manifest, prompt, style_prompt)


def read(source: Source, manifest: Json, prompt: str = "", style_prompt: str = "") -> Imported:
    """`convert`, of a source that is open."""
    (header,) = source.headers
    said = header.metadata
    templates, assumed = _templates(prompt or said.get("prompt", ""), style_prompt or said.get("style_prompt", ""))
    layout = _layout(str(source), header, source.notes)
    vectors = {graph: _stack(str(source), header, stages) for graph, stages in layout.keys.items()}
    widths = {graph: array.shape[2] for graph, (_, array) in vectors.items()}
    _check_fit(str(source), widths, manifest)
    stages, count = _sizes(str(source), [array for _, array in vectors.values()])
    record = {
        "format": FORMAT,
        "kind": KIND,
        "family": manifest["family"],
        "stages": stages,
        "vectors": count,
        "widths": widths,
        **templates,
        "source": {
            **source.facts(layout.name, assumed),
            **({"token": layout.token} if layout.token else {}),
        },
    }
    return Imported(encode({f"{graph}.vectors": part for graph, part in vectors.items()}, metadata(record)), record)


def misfits(header: Header, manifest: Json) -> list[str]:
    """Why a registered embedding does not fit the bundle; empty when it does."""
    widths = {key.removesuffix(".vectors"): tensor.shape[-1] for key, tensor in header.tensors.items()}
    try:
        _check_fit("the embedding", widths, manifest)
    except AdapterError as error:
        return [str(error)]
    return []


def _keys(header: Header) -> list[str]:
    return [key for key in header.tensors if not key.startswith(TOKEN_NUMBERS)]


def _layout(source: str, header: Header, notes: Json) -> Layout:
    keys = _keys(header)
    found = embedding_layouts.recognise(source, keys)
    if found is None:
        raise AdapterError(
            f"{source} is no embedding of a known layout; its keys: {', '.join(sorted(keys)[:5]) or '-'}"
        )
    strange = [key for key in notes if key not in NOTES and not key.startswith(TOKEN_NUMBERS)]
    if strange:
        raise UnaccountedKeys(source, [f"{key}: no part of an embedding" for key in strange])
    return replace(found, token=str(notes["name"])) if found.name == "a1111" and notes.get("name") else found


def _stack(source: str, header: Header, stages: list[list[str]]) -> Vectors:
    """Dtype as stored, and [stages, vectors, width]. Raises AdapterError for tensors that are no vectors or unlike."""
    keys = [key for stage in stages for key in stage]
    kinds = {key: (header.tensors[key].dtype, header.tensors[key].shape) for key in keys}
    dtype, shape = kinds[keys[0]]
    if dtype not in FLOATS or len(shape) not in (1, 2) or not shape[-1]:
        raise AdapterError(f"{source}: {keys[0]} is {dtype} {list(shape)}; F32, F16 or BF16 of [n, width] is expected")
    other = next((key for key, kind in kinds.items() if kind != (dtype, shape)), None)
    if other is not None:
        found = f"{keys[0]} is {dtype} {list(shape)}, {other} is {kinds[other][0]} {list(kinds[other][1])}"
        raise AdapterError(f"{source}: its tensors differ: {found}")
    rows = {key: read_tensor(header, key).reshape(-1, shape[-1]) for key in keys}
    spoilt = [key for key, array in rows.items() if not finite(array, dtype)]
    if spoilt:
        raise AdapterError(f"{source}: {', '.join(spoilt)} holds NaN or infinity")
    return dtype, np.stack([np.concatenate([rows[key] for key in stage]) for stage in stages])


def _sizes(source: str, vectors: Iterable[NDArray[Any]]) -> tuple[int, int]:
    """Stages and vectors of each, which the text encoders share. Raises AdapterError beyond the limits."""
    (stages, count), *others = {array.shape[:2] for array in vectors}
    if others:
        raise AdapterError(f"{source}: its text encoders have unlike numbers of vectors: {count}, {others[0][1]}")
    if not (1 <= stages <= MAX_STAGES and 1 <= count <= MAX_VECTORS):
        limits = f"1 to {MAX_STAGES} stages of 1 to {MAX_VECTORS} vectors are served"
        raise AdapterError(f"{source} has {stages} stages of {count} vectors; {limits}")
    return stages, count


def _check_fit(what: str, widths: Mapping[str, int], manifest: Json) -> None:
    """Raises AdapterError unless the bundle has just these text encoders, of these widths."""
    wanted = {
        graph: port["shape"][-1]
        for graph, facts in manifest["graphs"].items()
        for port in facts["inputs"]
        if port["name"] == LEARNED
    }
    if not wanted:
        raise AdapterError("the bundle's text encoder takes no embeddings; link the checkpoint again")
    if widths.keys() != wanted.keys():
        have, want = " and ".join(widths), " and ".join(wanted)
        raise AdapterError(f"{what} has vectors for {have}, the bundle has {want}: an embedding of another backbone")
    for graph, width in widths.items():
        if width != wanted[graph]:
            problem = f"its vectors are {width} wide, the bundle's {graph} is {wanted[graph]} wide"
            raise AdapterError(f"{what}: {problem}: an embedding of another backbone")


def _templates(prompt: str, style_prompt: str) -> tuple[Json, list[str]]:
    """The prompts it was trained with, and in words which of them were assumed."""
    assumed = [
        f"{option} is not stated: {default!r} taken, as in the paper"
        for option, given, default in (("prompt", prompt, PROMPT), ("style prompt", style_prompt, STYLE_PROMPT))
        if not given
    ]
    prompt, style_prompt = prompt or PROMPT, style_prompt or STYLE_PROMPT
    if prompt.count("{context}") != 1 or prompt.count("{style}") != 1:
        raise AdapterError(f"--prompt: got {prompt!r}; it must hold {{context}} and {{style}}, each once")
    if style_prompt.count("{style}") != 1 or "{context}" in style_prompt:
        raise AdapterError(f"--style-prompt: got {style_prompt!r}; it must hold {{style}} once, and no {{context}}")
    return {"prompt": prompt, "style_prompt": style_prompt}, assumed

"""Import LoRA files and their variants into impasto's adapter format: every key of a file, or nothing.

Two kinds come out. A "lora" changes only layers that have a bank: A [in, r] and B [r, out], used without merging. If a
bank cannot hold some change, the whole adapter becomes a "delta", with each layer's tensors as in the file, for merging
only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_export.adapters import bases, collected, forms, layers, layouts, pairs, scales
from impasto_export.adapters.collected import Site, Sites
from impasto_export.adapters.layers import Layer, Layers
from impasto_export.adapters.layouts import ALPHA, DORA_SCALE, DOWN, LOHA, LOKR, MAGNITUDE, UP, AsWritten, Names
from impasto_export.adapters.sources import Source
from impasto_export.architecture import FORMAT, LORA, Json
from impasto_export.errors import SHOWN, AdapterError, UnaccountedKeys
from impasto_export.spellings import UPSCALER
from impasto_export.weights import encode, header_length

# The kind of adapters that only merging can use.
DELTA = "delta"
# The longest header of an adapter that a server reads, in bytes.
MAX_OWN_HEADER = 1 << 20
# Added to the note on an assumed alpha: aMUSEd's files never state it.
AMUSED = "; aMUSEd's trainer saves none, and its default of r=16, alpha=32 is at half strength so: then give --alpha 32"
PICKLED = "a LoRA in a pickle; convert it to safetensors first"
Tensors = dict[str, tuple[str, NDArray[Any]]]


@dataclass(frozen=True)
class Imported:
    """The adapter file's bytes and its `impasto` metadata."""

    data: bytes
    record: Json


def read(
    source: Source,
    manifest: Json,
    trigger: str | None = None,
    prompt: str = "",
    alpha: float | None = None,
    bundle: Path | None = None,
) -> Imported:
    """Import a LoRA (diffusers', PEFT's, kohya's or another layout) for the bundle that `manifest` describes.

    `prompt` is the template of its training, with {context} in it; `alpha` is for files that don't state their own;
    layers without a bank are read from the graphs in the folder `bundle`.

    Raises UnaccountedKeys when a key has no place in the bundle, AdapterError for any other problem.
    """
    if any(half.pickled for half in source.halves):
        raise AdapterError(f"{source} is {PICKLED}")
    scales.check_given(alpha)
    _check_family(source, manifest["family"])
    pairs.check_bundle(source, layouts.paired(source.keys) or source.second is not None, manifest)
    check_order(source)
    known = layers.of(manifest, bundle)
    sites, bad = collected.collect(source, Names(known))
    bad += collected.misfits(source, sites, known)
    if bad:
        raise UnaccountedKeys(f"{' and '.join(map(str, source.halves))}{_made_for(source)}", bad)
    graphs = {graph for graph, _ in sites}
    pairs.check_whole(source, graphs)
    found = collected.merged_only(sites, known)
    tensors, assumed = _tensors(sites, known, alpha, hot=not found)
    layout = collected.layout(source.headers[0])
    ranks = (forms.rank(site.shapes) for site in sites.values())
    record = {
        "format": FORMAT,
        "kind": DELTA if found else LORA,
        "family": manifest["family"],
        "architecture": manifest["architecture"],
        **({"forms": found} if found else {}),
        "rank": max((rank for rank in ranks if rank), default=0),
        "sites": len(sites),
        **pairs.stages(graphs),
        "source": {
            **source.facts(layout, _notes(source, manifest, assumed, len(sites), trigger)),
            **({"given": {"alpha": alpha}} if alpha is not None else {}),
        },
        **words(trigger or _trigger(source), prompt),
    }
    return sealed(tensors, record)


def check_order(source: Source) -> None:
    """Raises AdapterError for a folder's two halves in each other's place."""
    if source.second is not None:
        pairs.check_order(source, collected.modules(source), collected.modules(source.second))


def sealed(tensors: Tensors, record: Json) -> Imported:
    """An adapter's file, with its record in the header. Raises AdapterError if the header is too long for servers."""
    data = encode(tensors, {"impasto": json.dumps(nameless(record), sort_keys=True, ensure_ascii=False)})
    length = header_length(data)
    if length > MAX_OWN_HEADER:
        problem = f"its header would have {length} bytes, but servers read up to {MAX_OWN_HEADER}"
        raise AdapterError(
            f"{record['source']['file']}: {problem}; it has too many layers, or too long a text in its own header"
        )
    return Imported(data, record)


def nameless(record: Json) -> Json:
    """The record as the file has it: without the name of the source's file, on which an adapter doesn't depend."""
    return {**record, "source": {key: value for key, value in record["source"].items() if key != "file"}}


def words(trigger: str | None, prompt: str) -> Json:
    """The record's trigger and prompt, those that were given. Raises AdapterError for a bad template."""
    if prompt and (prompt.count("{context}") != 1 or "{style}" in prompt):
        fix = 'it must contain {context} once, and the style in words: "{context} in stained glass style"'
        raise AdapterError(f"--prompt: got {prompt!r}; {fix}")
    return {key: value for key, value in (("trigger", trigger), ("prompt", prompt)) if value}


def _trigger(source: Source) -> str:
    """The header's trigger words, on one line."""
    return " ".join(source.metadata.get(bases.TRIGGER, "").split())


def taken(source: Source, trigger: str | None) -> list[str]:
    """A note if the trigger words were taken from the header."""
    found = "" if trigger else _trigger(source)
    return [f"no --trigger was given: {found!r} taken, its header's {bases.TRIGGER}"] if found else []


def _notes(source: Source, manifest: Json, assumed: list[str], total: int, trigger: str | None) -> list[str]:
    """Notes on what was assumed, and on what was not read."""
    left = source.left if UPSCALER in manifest["graphs"] else []
    return [*assumptions(assumed, total, manifest["family"] == "masked"), *taken(source, trigger), *left]


def _made_for(source: Source) -> str:
    """The base model for an error's text, if it can be told."""
    base = collected.made_for(source, collected.collect(source, AsWritten())[0]).base
    return "" if base == bases.UNKNOWN else f" (made for {base})"


def _check_family(source: Source, family: str) -> None:
    """Raises AdapterError when the keys name a backbone, but not the bundle's."""
    named = layouts.families(source.keys)
    if named and family not in named:
        graph, other = layouts.BACKBONES[min(named)], min(named)
        problem = f"its keys name a {graph}, so it is for a bundle of the family {other}; this one's is {family}"
        raise AdapterError(f"{source}: {problem}. Import it with --bundle of a checkpoint that it was trained on")


def _tensors(sites: Sites, known: Layers, given: float | None, hot: bool) -> tuple[Tensors, list[str]]:
    """The adapter's tensors, and the layers whose alpha was assumed."""
    tensors: Tensors = {}
    assumed = []
    for (graph, name), site in sorted(sites.items()):
        where = f"{graph}.{name}"
        scale = scales.scale(site.config, name, forms.rank(site.shapes), site.alpha, given)
        if scale is None:
            assumed.append(where)
        parts = _bank(site) if hot else _stored(site, known[graph][name])
        tensors |= {f"{where}.{role}": part for role, part in parts.items()}
        tensors[f"{where}.scale"] = ("F32", np.array(1.0 if scale is None else scale, dtype="<f4"))
    return tensors, assumed


def _bank(site: Site) -> Tensors:
    """A and B, in the layout that the graph multiplies without a transpose; a 1x1 convolution's last two sizes go."""
    a, b = (site.parts[role].reshape(site.parts[role].shape[:2]) for role in (DOWN, UP))
    return {"A": (site.dtype[DOWN], a.T), "B": (site.dtype[UP], b.T)}


def _stored(site: Site, layer: Layer) -> Tensors:
    """The tensors as in the file. Only DoRA's norms are reshaped, to as many axes as the weight has: so their shape
    tells whether they are of outputs or of inputs."""
    stored = {role: (site.dtype[role], part) for role, part in site.parts.items() if role != ALPHA}
    norms = forms.norms(site.shapes, layer.shape)
    if norms is not None:
        dtype, values = stored.pop(MAGNITUDE if MAGNITUDE in stored else DORA_SCALE)
        stored[MAGNITUDE] = dtype, values.reshape(norms)
    return {role.removeprefix(LOHA).removeprefix(LOKR): part for role, part in stored.items()}


def assumptions(assumed: list[str], total: int, amused: bool) -> list[str]:
    """A note on an assumed alpha; `assumed` are the layers, of `total`, for which none was stated."""
    if not assumed:
        return []
    more = f" and {len(assumed) - SHOWN} more" if len(assumed) > SHOWN else ""
    where = "all sites" if len(assumed) == total else ", ".join(assumed[:SHOWN]) + more
    return [f"alpha is not stated: alpha = rank (scale 1) taken for {where}{AMUSED if amused else ''}"]

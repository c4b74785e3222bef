"""Foreign LoRA files -> impasto's adapter format. Every key of the file ends up in the adapter, or nothing does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from impasto_export import layouts, scales, sources
from impasto_export.architecture import FORMAT, LORA, Json
from impasto_export.errors import AdapterError, UnaccountedKeys
from impasto_export.layouts import Piece
from impasto_export.sources import Source
from impasto_export.weights import Header, encode, read_tensor

# Said where alpha was assumed: there, files never state it.
AMUSED = "; aMUSEd's trainer saves none, and its default of r=16, alpha=32 is at half strength so: then give --alpha 32"
FLOATS = ("F32", "F16", "BF16")
Layout = Literal["diffusers", "peft"]
Sizes = Mapping[str, Mapping[str, tuple[int, int]]]


@dataclass(frozen=True)
class Imported:
    """The adapter file's bytes and its `impasto` metadata."""

    data: bytes
    record: Json


@dataclass
class _Site:
    """A and B as stored, [r, in] and [out, r]; alpha when the file has one."""

    dtype: dict[str, str] = field(default_factory=dict)
    parts: dict[str, NDArray[Any]] = field(default_factory=dict)
    config: scales.LoraConfig | None = None


def site_sizes(manifest: Json, kind: str = LORA) -> Sizes:
    """graph -> site -> (in_features, out_features) of a bundle's manifest, for adapters of the kind."""
    return {
        graph: {
            site["name"]: (site["in_features"], site["out_features"])
            for site in facts["sites"]
            if site.get("kind", LORA) == kind
        }
        for graph, facts in manifest["graphs"].items()
    }


def convert(
    source: Path, manifest: Json, trigger: str | None = None, prompt: str = "", alpha: float | None = None
) -> Imported:
    """Read a LoRA file or folder (diffusers or PEFT layout) for the bundle that `manifest` describes.

    `prompt` is the template it was trained with, {context} in it; `alpha` is for files that don't state their own.

    Raises UnaccountedKeys when a key has no place in the bundle, AdapterError for anything else that is wrong.
    """
    with sources.opened(source) as opened:
        return read(opened, manifest, trigger, prompt, alpha)


def read(
    source: Source, manifest: Json, trigger: str | None = None, prompt: str = "", alpha: float | None = None
) -> Imported:
    """`convert`, of a source that is open."""
    if source.pickled:
        raise AdapterError(f"{source} is a LoRA in a pickle; convert it to safetensors first")
    scales.check_given(alpha)
    _check_family(source, manifest["family"])
    sites = _collect(source, site_sizes(manifest))
    tensors: dict[str, tuple[str, NDArray[Any]]] = {}
    assumed: list[str] = []
    for (graph, name), site in sorted(sites.items()):
        tensors.update(_tensors(f"{graph}.{name}", name, site, alpha, assumed))
    record = {
        "format": FORMAT,
        "kind": LORA,
        "family": manifest["family"],
        "architecture": manifest["architecture"],
        "rank": max(site.parts["A"].shape[0] for site in sites.values()),
        "sites": len(sites),
        "source": {
            **source.facts(_layout(source.files[0]), _summary(assumed, len(sites), manifest["family"])),
            **({"given": {"alpha": alpha}} if alpha is not None else {}),
        },
        **words(trigger, prompt),
    }
    return Imported(encode(tensors, metadata(record)), record)


def metadata(record: Json) -> dict[str, str]:
    """The adapter file's header."""
    return {"impasto": json.dumps(record, sort_keys=True, ensure_ascii=False)}


def words(trigger: str | None, prompt: str) -> Json:
    """What a record says of an adapter's words, without what wasn't said. Raises AdapterError for a bad template."""
    if prompt and (prompt.count("{context}") != 1 or "{style}" in prompt):
        fix = 'it must hold {context} once, and the style in words: "{context} in stained glass style"'
        raise AdapterError(f"--prompt: got {prompt!r}; {fix}")
    return {key: value for key, value in (("trigger", trigger), ("prompt", prompt)) if value}


def _check_family(source: Source, family: str) -> None:
    """Raises AdapterError when the keys name a backbone, but not the bundle's."""
    named = layouts.families(source.keys)
    if named and family not in named:
        graph, other = layouts.BACKBONES[min(named)], min(named)
        problem = f"its keys begin with {graph}., so it is for a bundle of the family {other}; this one's is {family}"
        raise AdapterError(f"{source}: {problem}. Import it with --bundle of a checkpoint that it was trained on")


def _layout(path: Path) -> Layout:
    return "peft" if path.name == sources.PEFT or (path.parent / scales.CONFIG_FILE).is_file() else "diffusers"


def _collect(source: Source, sizes: Sizes) -> dict[tuple[str, str], _Site]:
    sites: dict[tuple[str, str], _Site] = {}
    bad: list[str] = []
    for header in source.headers:
        folder_config = scales.from_folder(header.path.parent) if _layout(header.path) == "peft" else None
        for key in sorted(header.tensors):
            piece = _piece(header, key, sizes)
            if isinstance(piece, str):
                bad.append(f"{key}: {piece}")
                continue
            site = sites.setdefault((piece.graph, piece.site), _Site())
            site.config = folder_config or scales.from_header(header, piece.graph)
            if piece.role in site.parts:
                bad.append(f"{key}: a second {piece.role} for {piece.graph}.{piece.site}")
                continue
            site.parts[piece.role], site.dtype[piece.role] = read_tensor(header, key), header.tensors[key].dtype
    bad += [
        f"{graph}.{name}: has {' and '.join(sorted(site.parts))}, but not both A and B"
        for (graph, name), site in sites.items()
        if not {"A", "B"} <= site.parts.keys()
    ]
    if bad:
        raise UnaccountedKeys(str(source), bad)
    if not sites:
        raise AdapterError(f"{source} holds no tensors")
    for (graph, name), site in sites.items():
        _check(f"{graph}.{name}", site, sizes[graph][name])
    return sites


def _piece(header: Header, key: str, sizes: Sizes) -> Piece | str:
    tensor = header.tensors[key]
    if len(tensor.shape) == 4 and key.endswith(".weight") and layouts.is_lora(key):
        return "adapts a convolution; only linear layers take adapters"
    piece = layouts.read(key, sizes)
    if isinstance(piece, Piece) and piece.role != "alpha" and tensor.dtype not in FLOATS:
        return f"has dtype {tensor.dtype}; F32, F16 or BF16 is expected"
    return piece


def _check(where: str, site: _Site, size: tuple[int, int]) -> None:
    """Shapes against the backbone and each other; every value finite."""
    a, b = site.parts["A"], site.parts["B"]
    rank = a.shape[0] if a.ndim == 2 else 0
    if rank < 1 or a.shape != (rank, size[0]) or b.shape != (size[1], rank):
        raise AdapterError(
            f"{where}: A {list(a.shape)} and B {list(b.shape)} do not fit a layer from {size[0]} to {size[1]} features:"
            " an adapter of another backbone?"
        )
    if "alpha" in site.parts and site.parts["alpha"].size != 1:
        raise AdapterError(f"{where}: alpha has shape {list(site.parts['alpha'].shape)}; a single number is expected")
    for role, part in site.parts.items():
        if not finite(part, site.dtype[role]):
            raise AdapterError(f"{where}: {role} holds NaN or infinity")


def finite(array: NDArray[Any], dtype: str) -> bool:
    """bf16 comes as its bits: an exponent of all ones is NaN or infinity."""
    if dtype == "BF16":
        return not bool(((array & 0x7F80) == 0x7F80).any())
    return bool(np.isfinite(array).all())


def float32(array: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """A bf16 number is the upper half of the float32 it stands for."""
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def as_float(array: NDArray[Any], dtype: str) -> float:
    """A one-element tensor as a number."""
    flat = array.reshape(1)  # NumPy widens no scalar's bits
    return float((float32(flat, dtype) if dtype == "BF16" else flat)[0])


def _tensors(
    where: str, name: str, site: _Site, given: float | None, assumed: list[str]
) -> dict[str, tuple[str, NDArray[Any]]]:
    """The site's three tensors in the layout that the graph multiplies without a transpose."""
    a, b = site.parts["A"], site.parts["B"]
    alpha = as_float(site.parts["alpha"], site.dtype["alpha"]) if "alpha" in site.parts else None
    scale = scales.scale(site.config, name, a.shape[0], alpha, given)
    if scale is None:
        assumed.append(where)
        scale = 1.0
    return {
        f"{where}.A": (site.dtype["A"], a.T),
        f"{where}.B": (site.dtype["B"], b.T),
        f"{where}.scale": ("F32", np.array(scale, dtype="<f4")),
    }


def _summary(assumed: list[str], total: int, family: str) -> list[str]:
    """What the source left open and was decided here, in words."""
    if not assumed:
        return []
    where = "all sites" if len(assumed) == total else ", ".join(assumed)
    return [f"alpha is not stated: alpha = rank (scale 1) taken for {where}{AMUSED if family == 'masked' else ''}"]

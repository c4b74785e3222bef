"""Foreign LoRA files -> impasto's adapter format. Every key of the file ends up in the adapter, or nothing does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from impasto_export import layouts, scales
from impasto_export.architecture import FAMILY, FORMAT, Json
from impasto_export.errors import AdapterError, UnaccountedKeys
from impasto_export.layouts import Piece
from impasto_export.weights import Header, encode, read_header, read_tensor, sha256_file

DIFFUSERS_FILE, PEFT_FILE = "pytorch_lora_weights.safetensors", "adapter_model.safetensors"
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


def site_sizes(manifest: Json) -> Sizes:
    """graph -> site -> (in_features, out_features) of a bundle's manifest."""
    return {
        graph: {site["name"]: (site["in_features"], site["out_features"]) for site in facts["sites"]}
        for graph, facts in manifest["graphs"].items()
    }


def convert(source: Path, manifest: Json, trigger: str | None = None) -> Imported:
    """Read a LoRA file or folder (diffusers or PEFT layout) for the bundle that `manifest` describes.

    Raises UnaccountedKeys when a key has no place in the bundle, AdapterError for anything else that is wrong.
    """
    paths = _sources(source)
    headers = [read_header(path) for path in paths]
    sites = _collect(source, headers, site_sizes(manifest))
    tensors: dict[str, tuple[str, NDArray[Any]]] = {}
    assumed: list[str] = []
    for (graph, name), site in sorted(sites.items()):
        tensors.update(_tensors(f"{graph}.{name}", name, site, assumed))
    record = {
        "format": FORMAT,
        "kind": "lora",
        "family": FAMILY,
        "architecture": manifest["architecture"],
        "rank": max(site.parts["A"].shape[0] for site in sites.values()),
        "sites": len(sites),
        "source": {
            "file": ", ".join(str(path.relative_to(source)) if source.is_dir() else path.name for path in paths),
            "sha256": _digest(paths),
            "layout": _layout(paths[0]),
            "assumed": _summary(assumed, len(sites)),
        },
        **({"trigger": trigger} if trigger else {}),
    }
    data = encode(tensors, {"impasto": json.dumps(record, sort_keys=True, ensure_ascii=False)})
    return Imported(data, record)


def _sources(source: Path) -> list[Path]:
    """The safetensors files to read. Raises AdapterError when there are none, or only pickles."""
    if source.is_file() and source.suffix == ".safetensors":
        return [source]
    if source.is_file():
        raise AdapterError(f"{source} is not a .safetensors file; pickles are not opened, convert it first")
    for names in (DIFFUSERS_FILE,), (PEFT_FILE,), (f"unet/{PEFT_FILE}", f"text_encoder/{PEFT_FILE}"):
        found = [source / name for name in names if (source / name).is_file()]
        if found:
            return found
    raise AdapterError(f"{source} holds neither {DIFFUSERS_FILE} nor {PEFT_FILE}")


def _layout(path: Path) -> Layout:
    return "peft" if path.name == PEFT_FILE or (path.parent / scales.CONFIG_FILE).is_file() else "diffusers"


def _collect(source: Path, headers: list[Header], sizes: Sizes) -> dict[tuple[str, str], _Site]:
    sites: dict[tuple[str, str], _Site] = {}
    bad: list[str] = []
    for header in headers:
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


def as_float(array: NDArray[Any], dtype: str) -> float:
    """A one-element tensor as a number."""
    if dtype == "BF16":
        return float((array.astype(np.uint32) << 16).view(np.float32).reshape(-1)[0])
    return float(array.reshape(-1)[0])


def _tensors(where: str, name: str, site: _Site, assumed: list[str]) -> dict[str, tuple[str, NDArray[Any]]]:
    """The site's three tensors in the layout that the graph multiplies without a transpose."""
    a, b = site.parts["A"], site.parts["B"]
    alpha = as_float(site.parts["alpha"], site.dtype["alpha"]) if "alpha" in site.parts else None
    scale = scales.scale(site.config, name, a.shape[0], alpha)
    if scale is None:
        assumed.append(where)
        scale = 1.0
    return {
        f"{where}.A": (site.dtype["A"], a.T),
        f"{where}.B": (site.dtype["B"], b.T),
        f"{where}.scale": ("F32", np.array(scale, dtype="<f4")),
    }


def _summary(assumed: list[str], total: int) -> list[str]:
    """What the source left open and was decided here, in words."""
    if not assumed:
        return []
    where = "all sites" if len(assumed) == total else ", ".join(assumed)
    return [f"alpha is not stated: alpha = rank (scale 1) taken for {where}"]


def _digest(paths: list[Path]) -> str:
    """sha256 of the file; of several, sha256 of their digests in order."""
    digests = [sha256_file(path) for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

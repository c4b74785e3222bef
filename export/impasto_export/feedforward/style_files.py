"""Read files of styles: the studio's fitted `vector`, γ and β conv by conv, embeddings, nets with their own styles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from impasto_export.adapters import fitted, pickles
from impasto_export.architecture import Json
from impasto_export.errors import AdapterError, CheckpointError
from impasto_export.feedforward import link, magenta, source
from impasto_export.feedforward.net import Array
from impasto_export.feedforward.network import Network
from impasto_export.feedforward.source import Source

STUDIO = "vector"
# Metadata of the style's picture: the file's key -> the record's key.
CREDITS = {"title": "title", "artist": "artist", "license": "license", "licence": "license"}
GAMMA, BETA = ("gamma", "scale"), ("beta", "shift")
NORMS = ("InstanceNorm", "StyleNorm")
NPY = ".npy"
SUFFIXES = (".safetensors", ".npz", NPY, ".onnx")
UNSTATED = "its network isn't stated: the bundle's was taken"


@dataclass(frozen=True)
class Styles:
    """A file's styles [N] by number, "" for an only one. `name` and `credits` are the file's own; `assumed` says in
    words what was assumed; `fit` is what impasto_fit says of itself."""

    layout: str
    vectors: Mapping[str, Array]
    assumed: Sequence[str] = ()
    name: str = ""
    credits: Mapping[str, str] = field(default_factory=dict)
    fit: Json = field(default_factory=dict)


def read(place: Path, network: Network) -> Styles:
    """The file's styles. Raises AdapterError for a style of another network, naming both, and for a file without
    styles."""
    try:
        return _read(place, network)
    except CheckpointError as error:
        raise AdapterError(str(error)) from None


def recognises(place: Path) -> str:
    """What styles the file holds, in words, without a bundle; "" for a file that may be something else."""
    if place.suffix == NPY:
        return "an embedding, or a vector"
    if place.suffix not in SUFFIXES and place.is_file() and pickles.is_pickle(place):
        return ""
    with source.opened(place) as opened:
        if opened is None:
            return ""
        if set(opened.shapes) == {STUDIO}:
            return f"a vector of {opened.shapes[STUDIO][0]} numbers, of the network {_called(opened.metadata)}"
        if link.recognises(place):
            count = len(link.read(place).vectors)
            return f"{count} styles, with their net" if count else ""
        tables = [key for key in opened.shapes if key.endswith(("/InstanceNorm/gamma", ".gamma"))]
        return f"γ and β of {len(tables)} convs" if tables else ""


def _read(place: Path, network: Network) -> Styles:
    if place.suffix == NPY:
        return _embeddings(place, _npy(place), {}, network)
    with source.opened(place) as opened:
        if opened is None:
            raise AdapterError(f"{place} holds no style; {', '.join(SUFFIXES)} and a net's own file are read")
        if set(opened.shapes) == {STUDIO}:
            return _fitted(opened, network)
        if link.recognises(place):
            return _whole(place, network)
        parts = [tuple(_part(opened, name, kinds) for kinds in (GAMMA, BETA)) for name in network.convs]
        if any(map(any, parts)):
            return _joined(opened, parts, network)
        if len(opened.shapes) == 1:
            return _embeddings(place, opened.tensor(*opened.shapes), opened.metadata, network)
    shown = ", ".join(f"{key} {list(shape)}" for key, shape in sorted(opened.shapes.items())[:5])
    raise AdapterError(f"{place} holds no style of a feed-forward net; its tensors: {shown or 'none'}")


def _fitted(opened: Source, network: Network) -> Styles:
    vector, said = opened.tensor(STUDIO), opened.metadata
    if not network.is_called(said.get("network", "")) or vector.shape != (network.size,):
        network.refuse(opened.place, f"{_called(said)}, with {'x'.join(map(str, vector.shape))} numbers")
    credits = {name: said[key] for key, name in CREDITS.items() if said.get(key)}
    fit = fitted.facts(str(opened), said)
    return Styles("fitted", {"": vector}, name=said.get("name", ""), credits=credits, fit=fit)


def _whole(place: Path, network: Network) -> Styles:
    """The styles in a net's own file, read with the options that the bundle was linked with."""
    found = link.read(place, network.said)
    if found.net.digest != network.architecture:
        network.refuse(place, f"{found.name} {found.net.digest[:12]}, with {found.net.vector_size} numbers")
    if not found.vectors:
        raise AdapterError(f"{place} is the bundle's network, without styles of its own; import a style's file")
    return Styles(found.net.name, found.vectors)


def _part(opened: Source, name: str, kinds: Sequence[str]) -> str:
    """The name of the tensor with a conv's γ or β, spelled as in the bundle or in TensorFlow; "" if there is none."""
    scope = magenta.scope(name)
    wanted = [f"{name}.{kind}" for kind in kinds] + [f"{scope}/{norm}/{kind}" for norm in NORMS for kind in kinds]
    return next((key for key in wanted if key in opened.shapes), "")


def _joined(opened: Source, parts: Sequence[tuple[str, ...]], network: Network) -> Styles:
    lacking = [name for name, part in zip(network.convs, parts, strict=True) if not all(part)]
    strange = sorted(opened.shapes.keys() - {key for part in parts for key in part})
    if lacking or strange:
        problem = f"without γ or β of {lacking[0]}" if lacking else f"with {strange[0]}, which the bundle's lacks"
        network.refuse(opened.place, problem)
    tables = [np.atleast_2d(opened.tensor(key)) for part in parts for key in part]
    counts, total = {len(table) for table in tables}, sum(table.shape[-1] for table in tables)
    if len(counts) != 1 or total != network.size:
        network.refuse(opened.place, f"with {total} numbers for {' and '.join(map(str, sorted(counts)))} styles")
    return Styles("γ and β", _numbered(np.concatenate(tables, axis=1)), [UNSTATED])


def _embeddings(place: Path, array: Array, said: Mapping[str, str], network: Network) -> Styles:
    """Styles from embeddings [D], or [n, D] for several; whole vectors [N] are taken as they are."""
    rows = array.reshape(-1, array.shape[-1]) if array.ndim else array.reshape(1, 1)
    width, layer, whole = rows.shape[1], network.expand, rows.shape[1] == network.size
    if said.get("network") and not network.is_called(said["network"]):
        network.refuse(place, f"{_called(said)}, with {width} numbers")
    if not whole and (layer is None or width != layer.width):
        network.refuse(place, f"{_called(said)}, with {width} numbers")
    vectors = rows if whole or layer is None else np.stack([layer(row) for row in rows])
    assumed = [] if said.get("network") else [UNSTATED]
    return Styles("vector" if whole else f"embedding of {width}", _numbered(vectors), assumed, said.get("name", ""))


def _numbered(rows: Array) -> dict[str, Array]:
    return {"": rows[0]} if len(rows) == 1 else {f"{number:02d}": row for number, row in enumerate(rows)}


def _called(said: Mapping[str, str]) -> str:
    return said.get("network", "")[:12] or "one that isn't stated"


def _npy(place: Path) -> Array:
    try:
        array: Array = np.load(place, allow_pickle=False).astype(np.float32)
        return array
    except (ValueError, OSError, EOFError) as error:
        raise AdapterError(f"{place} cannot be read as .npy ({error}); get it again") from None

"""Styles of a net as adapters: γ and β of its conditioned convs, one vector of N numbers each.

They come as what the studio fits (`vector`), as γ and β conv by conv, as embeddings that the bundle's linear layer
expands, or together with a whole net, which then must be the bundle's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from impasto_export.adapters.loras import Imported, sealed
from impasto_export.architecture import FORMAT, VECTOR, Json
from impasto_export.errors import AdapterError, CheckpointError
from impasto_export.feedforward import link, magenta, source
from impasto_export.feedforward.found import Expand, Said
from impasto_export.feedforward.net import Array
from impasto_export.feedforward.predictor import BIAS, WEIGHT
from impasto_export.feedforward.source import Source
from impasto_export.weights import read_header, read_tensor, sha256_file

KIND = VECTOR
TENSOR = "transform.style.vector"
STUDIO = "vector"
# What a file may say of the picture that its style is from.
CREDITS = ("title", "artist", "license")
GAMMA, BETA = ("gamma", "scale"), ("beta", "shift")
SUFFIXES = (".safetensors", ".npz", ".npy", ".onnx")


@dataclass(frozen=True)
class Styles:
    """A file's styles [N] by number, "" for its only one. `name` is what a file calls that, `credits` are what it says
    of it, `assumed` what was decided here, in words."""

    layout: str
    vectors: Mapping[str, Array]
    assumed: Sequence[str] = ()
    name: str = ""
    credits: Mapping[str, str] = field(default_factory=dict)


def convert(place: Path, manifest: Json, bundle: Path, name: str = "", style: str = "") -> dict[str, Imported]:
    """The file's styles for the bundle, by name: `name`, and its own where that is empty; several get numbers behind
    it, but the one that `style` picks doesn't. A folder of files has those of all.

    Raises AdapterError for a style of another network, naming both, and for what holds no style.
    """
    if place.is_dir() and not link.recognises(place):
        return _folder(place, manifest, bundle, name, style)
    found = _read(place, manifest, bundle)
    own = name or found.name
    if not own:
        raise AdapterError(f"--name: {place} doesn't say what its style is called; give a name")
    picked = {own: _picked(place, found.vectors, style)} if style else _named(own, found.vectors)
    return {key: _sealed(vector, found, place, manifest) for key, vector in picked.items()}


def _folder(place: Path, manifest: Json, bundle: Path, name: str, style: str) -> dict[str, Imported]:
    files = sorted(path for path in place.iterdir() if path.suffix in SUFFIXES)
    if not files:
        raise AdapterError(f"{place} holds no file of a style; {', '.join(SUFFIXES)} are read")
    if style or (name and len(files) > 1):
        fix = "each is named by itself: leave it out, or import one file"
        raise AdapterError(f"{'--style' if style else '--name'}: {place} holds {len(files)} files of styles; {fix}")
    return {key: made for file in files for key, made in convert(file, manifest, bundle, name).items()}


def _named(own: str, vectors: Mapping[str, Array]) -> dict[str, Array]:
    return {f"{own}-{number}" if number else own: vector for number, vector in vectors.items()}


def _picked(place: Path, vectors: Mapping[str, Array], style: str) -> Array:
    """By its number, with zeros before it or without."""
    found = next((number for number in vectors if number == style.zfill(len(number)) and number), None)
    if found is None:
        first, *_, last = (*vectors, *vectors)
        have = f"its styles are {first} to {last}" if first else "it holds one style: leave it out"
        raise AdapterError(f"--style: got {style!r}; of {place} {have}")
    return vectors[found]


def sealed_as(vector: Array, manifest: Json, facts: Json, credits: Mapping[str, str]) -> Imported:
    """The adapter's file; `facts` say where it is from. Raises AdapterError for what is no finite number."""
    if not np.isfinite(vector).all():
        raise AdapterError(f"{facts['file']}: its style holds NaN or infinity")
    record = {
        "format": FORMAT,
        "kind": KIND,
        "family": manifest["family"],
        "architecture": manifest["architecture"],
        "network": manifest["name"],
        "size": len(vector),
        **credits,
        "source": facts,
    }
    return sealed({TENSOR: ("F32", np.ascontiguousarray(vector, np.float32))}, record)


def size(manifest: Json) -> int:
    """N of the bundle's network. Raises AdapterError for one without vectors."""
    sites = [site for graph in manifest["graphs"].values() for site in graph["sites"] if site.get("kind") == VECTOR]
    if not sites:
        raise AdapterError(
            f"the bundle's network {manifest['name']!r} has no style vectors: all its weights are one style"
        )
    count: int = sites[0]["in_features"]
    return count


def expand(manifest: Json, bundle: Path) -> Expand | None:
    """The linear layer from its embeddings to its vectors; None where it has none."""
    if "expand" not in manifest:
        return None
    header = read_header(bundle / manifest["expand"]["file"])
    return Expand(read_tensor(header, WEIGHT), read_tensor(header, BIAS))


def _sealed(vector: Array, found: Styles, place: Path, manifest: Json) -> Imported:
    facts = {"file": place.name, "sha256": _digest(place), "layout": found.layout, "assumed": list(found.assumed)}
    return sealed_as(vector, manifest, facts, found.credits)


def _digest(place: Path) -> str:
    """Of a folder nothing is digested: its tensors are, as the architecture."""
    return sha256_file(place) if place.is_file() else ""


def _read(place: Path, manifest: Json, bundle: Path) -> Styles:
    wanted = size(manifest)
    if place.suffix == ".npy":
        return _embedding(place, _npy(place), {}, manifest, bundle)
    with source.opened(place) as opened:
        if opened is None:
            raise AdapterError(f"{place} holds no style; {', '.join(SUFFIXES)} and a net's own file are read")
        if set(opened.shapes) == {STUDIO}:
            return _studio(opened, manifest, wanted)
        if link.recognises(place):
            return _whole(place, manifest)
        parts = _parts(opened, manifest)
        if parts is not None:
            return _joined(opened, parts, manifest, wanted)
        (name,) = opened.shapes if len(opened.shapes) == 1 else ("",)
        if name:
            return _embedding(place, opened.tensor(name), opened.metadata, manifest, bundle)
    shown = ", ".join(f"{key} {list(shape)}" for key, shape in sorted(opened.shapes.items())[:5])
    raise AdapterError(f"{place} holds no style of a feed-forward net; its tensors: {shown}")


def _studio(opened: Source, manifest: Json, wanted: int) -> Styles:
    vector = opened.tensor(STUDIO)
    network = opened.metadata.get("network", "")
    own = manifest["source"].get("network", "")
    if network != own or vector.shape != (wanted,):
        _refuse(opened.place, f"{_network(network)}, with {_sides(vector)} numbers", manifest, wanted)
    credits = {key: opened.metadata[key] for key in CREDITS if opened.metadata.get(key)}
    return Styles("studio", {"": vector}, name=opened.metadata.get("name", ""), credits=credits)


def _whole(place: Path, manifest: Json) -> Styles:
    """A net's own styles: it is read as it was linked."""
    try:
        said = Said(**{key: value for key, value in manifest["source"]["said"].items() if key != "predictor"})
        found = link.read(place, said)
    except CheckpointError as error:
        raise AdapterError(str(error)) from None
    if found.net.digest != manifest["architecture"]:
        _refuse(place, f"{found.name} {found.net.digest[:12]}", manifest, size(manifest))
    if not found.vectors:
        raise AdapterError(f"{place} is the bundle's network, and has no styles of its own; import a style's file")
    return Styles(found.net.name, found.vectors)


def _parts(opened: Source, manifest: Json) -> list[tuple[str, str]] | None:
    """The tensors with each conditioned conv's γ and β, by the conv's name in the bundle or in TensorFlow; None where
    they aren't there."""
    names = _conditioned(manifest)
    found = [(_part(opened, name, GAMMA), _part(opened, name, BETA)) for name in names]
    return found if any(map(any, found)) else None


def _part(opened: Source, name: str, kinds: Sequence[str]) -> str:
    scopes = (name, magenta.scope(name))
    wanted = [f"{scopes[0]}.{kind}" for kind in kinds]
    wanted += [f"{scopes[1]}/{norm}/{kind}" for norm in ("InstanceNorm", "StyleNorm") for kind in kinds]
    return next((key for key in wanted if key in opened.shapes), "")


def _conditioned(manifest: Json) -> list[str]:
    """Its convs that take γ and β, in the order they run."""
    held = [
        conv
        for block in manifest["trunk"]["blocks"]
        for conv in ([block] if "name" in block and "norm" in block else block.get("residual", []))
    ]
    return [conv["name"] for conv in held if conv["norm"]["conditioned"]]


def _joined(opened: Source, parts: Sequence[tuple[str, str]], manifest: Json, wanted: int) -> Styles:
    names = _conditioned(manifest)
    missing = [name for name, part in zip(names, parts, strict=True) if not all(part)]
    strange = sorted(opened.shapes.keys() - {key for part in parts for key in part})
    if missing or strange:
        problem = f"γ or β is missing of {', '.join(missing[:3])}" if missing else f"{strange[0]} has no place"
        _refuse(opened.place, f"of other convs ({problem})", manifest, wanted)
    tables = [np.atleast_2d(opened.tensor(key)) for part in parts for key in part]
    counts = {len(table) for table in tables}
    if len(counts) != 1 or sum(table.shape[-1] for table in tables) != wanted:
        total = sum(table.shape[-1] for table in tables)
        _refuse(
            opened.place, f"with {total} numbers for {', '.join(map(str, sorted(counts)))} styles", manifest, wanted
        )
    stacked = np.concatenate(tables, axis=1)
    named = {f"{number:02d}": vector for number, vector in enumerate(stacked)}
    assumed = ["its network isn't stated: the bundle's taken, whose convs its γ and β fit"]
    return Styles("γ and β", {"": stacked[0]} if len(stacked) == 1 else named, assumed)


def _embedding(place: Path, array: Array, metadata: Mapping[str, str], manifest: Json, bundle: Path) -> Styles:
    """[D], or [n, D] for several; whole vectors [N] are taken as they are."""
    wanted, layer = size(manifest), expand(manifest, bundle)
    rows = array.reshape(-1, array.shape[-1]) if array.ndim else array.reshape(1, 1)
    width = rows.shape[1]
    network = metadata.get("network", "")
    known = (manifest["architecture"], manifest["name"], manifest["source"].get("network"))
    if (network and network not in known) or width not in (wanted, layer.width if layer else wanted):
        takes = f" or embeddings of {layer.width}" if layer else ""
        _refuse(place, f"{_network(network)}, with {width} numbers", manifest, wanted, takes)
    assumed = [] if network else [f"its network isn't stated: the bundle's, {manifest['name']}, was taken"]
    whole = width == wanted or layer is None
    vectors = rows if whole else np.stack([layer(row) for row in rows])
    named = {"": vectors[0]} if len(vectors) == 1 else {f"{at:02d}": vector for at, vector in enumerate(vectors)}
    return Styles("vector" if whole else f"embedding of {width}", named, assumed)


def _npy(place: Path) -> Array:
    try:
        array = np.load(place, allow_pickle=False)
        return np.asarray(array, np.float32)
    except (ValueError, OSError, EOFError) as error:
        raise AdapterError(f"{place} cannot be read as .npy ({error}); get it again") from None


def _network(said: str) -> str:
    return said[:12] or "one that it doesn't name"


def _sides(array: Array) -> str:
    return "x".join(map(str, array.shape))


def _refuse(place: Path, theirs: str, manifest: Json, wanted: int, takes: str = "") -> None:
    own = f"{manifest['name']} {manifest['architecture'][:12]}, whose vectors have {wanted} numbers{takes}"
    raise AdapterError(
        f"{place}: a style of another network: {theirs}; the bundle's is {own}; give that network's bundle"
    )

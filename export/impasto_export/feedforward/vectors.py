"""Import a net's styles as adapters: γ and β of its conditioned convs, one vector of N numbers for each style."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from impasto_export.adapters.loras import Imported, sealed
from impasto_export.architecture import FORMAT, VECTOR, Json
from impasto_export.errors import AdapterError
from impasto_export.feedforward import link, network, style_files
from impasto_export.feedforward.net import Array
from impasto_export.feedforward.style_files import SUFFIXES, Styles
from impasto_export.weights import sha256_file

TENSOR = "transform.style.vector"


def convert(place: Path, manifest: Json, bundle: Path, name: str = "", style: str = "") -> dict[str, Imported]:
    """The file's styles for the bundle, by name: `name`, or the file's own if that is empty. Several styles get numbers
    appended; one picked by `style` gets none. A folder gives the styles of all its files.

    Raises AdapterError for a style of another network, naming both, and for a file without styles.
    """
    if place.is_dir() and not link.recognises(place):
        return _folder(place, manifest, bundle, name, style)
    found = style_files.read(place, network.of(manifest, bundle))
    own = name or found.name
    if not own:
        raise AdapterError(f"--name: {place} doesn't name its style; give a name")
    picked = {own: _picked(place, found.vectors, style)} if style else _named(own, found.vectors)
    return {key: sealed_as(vector, manifest, _facts(place, found), found.credits) for key, vector in picked.items()}


def _folder(place: Path, manifest: Json, bundle: Path, name: str, style: str) -> dict[str, Imported]:
    files = sorted(path for path in place.iterdir() if path.suffix in SUFFIXES)
    if not files:
        raise AdapterError(f"{place} holds no style file; {', '.join(SUFFIXES)} are read")
    if style or (name and len(files) > 1):
        fix = "each has its own name: leave it out, or import one file"
        raise AdapterError(f"{'--style' if style else '--name'}: {place} holds {len(files)} style files; {fix}")
    return {key: made for file in files for key, made in convert(file, manifest, bundle, name).items()}


def _named(own: str, vectors: Mapping[str, Array]) -> dict[str, Array]:
    return {f"{own}-{number}" if number else own: vector for number, vector in vectors.items()}


def _picked(place: Path, vectors: Mapping[str, Array], style: str) -> Array:
    """The style of that number, which may lack leading zeros."""
    found = next((number for number in vectors if number and number == style.zfill(len(number))), None)
    if found is None:
        first, *_, last = (*vectors, *vectors)
        have = f"has the styles {first} to {last}" if first else "has one style: leave it out"
        raise AdapterError(f"--style: got {style!r}; {place} {have}")
    return vectors[found]


def _facts(place: Path, found: Styles) -> Json:
    """The record's source. A folder, or a checkpoint of several files, has no digest; the record names the network."""
    digest = {"sha256": sha256_file(place)} if place.is_file() else {}
    return {"file": place.name, **digest, "layout": found.layout, "assumed": list(found.assumed), **found.fit}


def sealed_as(vector: Array, manifest: Json, facts: Json, credits: Mapping[str, str]) -> Imported:
    """The adapter's file; `facts` are its source. Raises AdapterError for NaN or infinity."""
    if not np.isfinite(vector).all():
        raise AdapterError(f"{facts['file']}: its style holds NaN or infinity")
    record = {
        "format": FORMAT,
        "kind": VECTOR,
        "family": manifest["family"],
        "architecture": manifest["architecture"],
        "network": manifest["name"],
        "size": len(vector),
        **credits,
        "source": facts,
    }
    return sealed({TENSOR: ("F32", np.ascontiguousarray(vector, np.float32))}, record)

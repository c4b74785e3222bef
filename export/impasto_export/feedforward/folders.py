"""Read folders of deeplearn.js and ml5: manifest.json lists the variables, each a file of float32 numbers."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from impasto_export.architecture import Json, read_json
from impasto_export.errors import CheckpointError
from impasto_export.feedforward.net import Array

MANIFEST = "manifest.json"
FILE, SHAPE = "filename", "shape"
# More numbers than any real variable has.
MAX_SIZE = 1 << 26


def entries(folder: Path) -> Json | None:
    """name -> {filename, shape}; None where manifest.json is missing or another program's."""
    if not (folder / MANIFEST).is_file():
        return None
    found = read_json(folder / MANIFEST)
    ours = found and all(isinstance(entry, dict) and {FILE, SHAPE} <= entry.keys() for entry in found.values())
    return found if ours else None


def shapes(folder: Path, found: Json) -> dict[str, tuple[int, ...]]:
    """name -> shape. Raises CheckpointError for an entry that does not describe a variable."""
    for name, entry in found.items():
        sides, file = entry[SHAPE], entry[FILE]
        whole = isinstance(sides, list) and all(type(side) is int and side > 0 for side in sides)
        if not whole or prod(sides) > MAX_SIZE or not isinstance(file, str) or Path(file).name != file:
            problem = f"{name} is {entry}; a shape and the name of a file beside it are expected"
            raise CheckpointError(f"{folder / MANIFEST}: {problem}")
    return {name: tuple(entry[SHAPE]) for name, entry in found.items()}


def read(folder: Path, entry: Json) -> Array:
    """The variable's numbers. Raises CheckpointError for a file that is missing or does not have its shape's size."""
    path, shape = folder / entry[FILE], tuple(entry[SHAPE])
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; {MANIFEST} names it")
    if path.stat().st_size != 4 * prod(shape):
        problem = f"has {path.stat().st_size} bytes, but {list(shape)} of float32 are {4 * prod(shape)}"
        raise CheckpointError(f"{path} {problem}; get it again")
    return np.frombuffer(path.read_bytes(), "<f4").reshape(shape)

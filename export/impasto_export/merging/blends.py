"""The file of a bundle's changed weights: which a mix changes, and their bytes, written one after the other.

A tensor is read, changed and written before the next one is, so memory holds a few copies of the largest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto_export import parameters
from impasto_export.architecture import Json
from impasto_export.errors import AdapterError, listing
from impasto_export.files import Progress
from impasto_export.floats import finite, float32
from impasto_export.merging.mixes import Ingredient
from impasto_export.parameters import Parameter
from impasto_export.weights import NUMPY, layout

# Where a tensor's bytes begin, by file: its identity in a bundle, whichever graphs read it under whatever name.
Place = tuple[str, int]
Stored = Mapping[str, Mapping[str, Parameter]]


@dataclass(frozen=True)
class Blend:
    """A tensor of the new file: its name there, where it lies in the bundle, and whose changes it gets, in this order,
    each under the graph and the name that its adapter has for it."""

    name: str
    stored: Parameter
    changes: tuple[tuple[Ingredient, str, str], ...]


def place(parameter: Parameter) -> Place:
    return parameter.file, parameter.tensor.offset


def plan(stored: Stored, mix: Sequence[Ingredient], before: str) -> dict[Place, Blend]:
    """Every tensor that an adapter changes, and those in the file `before`, which the new one is put in the place of;
    in the order of their names.

    Raises AdapterError naming every weight that the bundle does not have.
    """
    owners = [(graph, name, parameter) for graph, found in stored.items() for name, parameter in found.items()]
    changes: dict[Place, list[tuple[Ingredient, str, str]]] = {
        place(parameter): [] for _, _, parameter in owners if parameter.file == before
    }
    for item in mix:
        _check(item, stored)
        for graph, name in item.roles:
            changes.setdefault(place(stored[graph][name]), []).append((item, graph, name))
    # Graphs may share a tensor: it is called after the first of them.
    named = {place(parameter): (f"{graph}.{name}", parameter) for graph, name, parameter in reversed(owners)}
    blends = {where: Blend(*named[where], tuple(steps)) for where, steps in changes.items()}
    return dict(sorted(blends.items(), key=lambda pair: pair[1].name))


def _check(item: Ingredient, stored: Stored) -> None:
    missing = sorted(f"{graph}.{name}" for graph, name in item.roles if name not in stored.get(graph, {}))
    if missing:
        problem = f"adapter {item.name!r} changes weights that the bundle does not have"
        raise AdapterError(f"{problem}; import it with --bundle of this one:\n{listing(missing)}")


def write(
    path: Path, bundle: Path, blends: Mapping[Place, Blend], progress: Progress
) -> tuple[dict[Place, Parameter], Json]:
    """Write the new file: where in it each of the planned tensors lies now, and the manifest's facts of it.

    Raises AdapterError for parts that do not fit a weight, or make numbers that its dtype does not hold.
    """
    tensors = {blend.name: (blend.stored.tensor.dtype, blend.stored.tensor.shape) for blend in blends.values()}
    start, spots = layout(tensors, {})
    total, digest = len(start) + sum(spot.length for spot in spots), hashlib.sha256()
    with path.open("wb") as file:
        for chunk in chain([start], (_changed(bundle, blend) for blend in blends.values())):
            file.write(chunk)
            digest.update(chunk)
            progress(f"writing {path.name}", file.tell(), total)
    moved = {where: Parameter(path.name, spot) for where, spot in zip(blends, spots, strict=True)}
    return moved, {"sha256": digest.hexdigest(), "bytes": total}


def _changed(bundle: Path, blend: Blend) -> bytes:
    """The tensor with its changes, made in float32 and rounded once, to its own dtype."""
    raw, dtype = parameters.values(bundle, blend.name, blend.stored), blend.stored.tensor.dtype
    if not blend.changes:
        return raw.tobytes()
    base = changed = float32(raw, dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of that is refused below
        for item, graph, name in blend.changes:
            changed = item.change(graph, name).applied(changed, base)
        rounded = _rounded(changed, dtype)
    if not (finite(changed, "F32") and finite(rounded, dtype)):
        names = ", ".join(repr(item.name) for item, _, _ in blend.changes)
        raise AdapterError(f"{blend.name}: with {names} it holds numbers that {dtype} does not; take smaller weights")
    return rounded.tobytes()


def _rounded(array: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """To the nearest number of the dtype, of two to the even one; what is too large becomes infinity."""
    if dtype == "BF16":
        bits = array.view(np.uint32)
        half = 0x7FFF + ((bits >> 16) & 1)
        return ((bits + half) >> 16).astype(NUMPY[dtype])
    return array.astype(NUMPY[dtype])

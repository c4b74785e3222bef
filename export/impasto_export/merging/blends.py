"""Write the file of a bundle's changed weights: plan which a mix changes, then write them one by one.

Each tensor is read, changed and written before the next, so memory holds a few copies of the largest one.
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

# A tensor's file and offset. They identify it in a bundle, whichever graphs read it under whatever names.
Place = tuple[str, int]
Stored = Mapping[str, Mapping[str, Parameter]]


@dataclass(frozen=True)
class Blend:
    """A tensor of the new file: its name there, where it lies in the bundle now, and its changes in order: the adapter,
    and the graph and name that the adapter uses for the tensor."""

    name: str
    stored: Parameter
    changes: tuple[tuple[Ingredient, str, str], ...]


def place(parameter: Parameter) -> Place:
    return parameter.file, parameter.tensor.offset


def plan(stored: Stored, mix: Sequence[Ingredient], before: str) -> dict[Place, Blend]:
    """Every tensor that an adapter changes, and those in the file `before`, which the new file replaces; in name order.

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
    # Graphs may share a tensor: its name comes from the first of them.
    named = {place(parameter): (f"{graph}.{name}", parameter) for graph, name, parameter in reversed(owners)}
    blends = {where: Blend(*named[where], tuple(steps)) for where, steps in changes.items()}
    return dict(sorted(blends.items(), key=lambda pair: pair[1].name))


def _check(item: Ingredient, stored: Stored) -> None:
    missing = sorted(f"{graph}.{name}" for graph, name in item.roles if name not in stored.get(graph, {}))
    if missing:
        problem = f"adapter {item.name!r} changes weights that the bundle does not have"
        raise AdapterError(f"{problem}; import it again with this bundle as --bundle:\n{listing(missing)}")


def write(
    path: Path, bundle: Path, blends: Mapping[Place, Blend], progress: Progress
) -> tuple[dict[Place, Parameter], Json]:
    """Write the new file. Returns each planned tensor's new place, and the manifest's entry of the file.

    Raises AdapterError for parts that do not fit a weight, or results that its dtype cannot hold.
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
    """The changed tensor's bytes: computed in float32, rounded once to its own dtype."""
    raw, dtype = parameters.values(bundle, blend.name, blend.stored), blend.stored.tensor.dtype
    if not blend.changes:
        return raw.tobytes()
    base = changed = float32(raw, dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # infinity and NaN are refused below
        for item, graph, name in blend.changes:
            changed = item.change(graph, name).applied(changed, base)
        rounded = _rounded(changed, dtype)
    if not (finite(changed, "F32") and finite(rounded, dtype)):
        names = ", ".join(repr(item.name) for item, _, _ in blend.changes)
        raise AdapterError(f"{blend.name}: with {names}, its numbers are too large for {dtype}; take smaller weights")
    return rounded.tobytes()


def _rounded(array: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Rounded to the dtype: to nearest, ties to even; too large numbers become infinity."""
    if dtype == "BF16":
        bits = array.view(np.uint32)
        half = 0x7FFF + ((bits >> 16) & 1)
        return ((bits + half) >> 16).astype(NUMPY[dtype])
    return array.astype(NUMPY[dtype])

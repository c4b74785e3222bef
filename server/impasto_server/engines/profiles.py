"""TensorRT's optimisation profiles: the least, usual and largest shape of each input.

A graph has one profile for the default picture size and one for all sizes, which comes last and includes the first. The
manifest says which sizes those are. Adapter tables have one fixed length; a lane reads up to MOST_RANK of their rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impasto_server.bundle import MAX_MANIFEST, Range, Sides
from impasto_server.errors import SetupError
from impasto_server.strangers import read_file, read_json

MOST_LANES = 16  # at least: what `impasto calibrate` tries, and what a scorer's batch has
USUAL_LANES = 8
MOST_RANK = 1024  # of all adapters of a lane together
RANKS = (1, 16, MOST_RANK)
RANK = "_K"  # the end of that dimension's name
BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)

UNSIDED: Sequence[Sides] = ({},)  # for graphs whose inputs vary only in their lanes

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Profile:
    """Shapes by input: the `least`, the `usual`, for which kernels are chosen, and the `most`."""

    least: Shapes
    usual: Shapes
    most: Shapes

    @classmethod
    def of(cls, ranges: Mapping[str, tuple[Range, ...]]) -> Profile:
        """From the ranges of every dimension of every input."""
        return cls(*({name: tuple(one[i] for one in dims) for name, dims in ranges.items()} for i in range(3)))

    def holds(self, shapes: Shapes) -> bool:
        """Whether inputs of these shapes lie within the profile."""
        return all(
            all(low <= size <= high for low, size, high in zip(self.least[name], shape, self.most[name], strict=True))
            for name, shape in shapes.items()
        )


def bucket(rows: int, most: int) -> int:
    """The size that a batch of `rows` is padded up to, so that few sizes occur; never beyond `most`."""
    assert 0 < rows <= most
    return next((size for size in BUCKETS if rows <= size <= most), most)


def most_lanes(asked: int) -> int:
    """The most rows that an engine is made for; at least MOST_LANES, which a scorer's batch may have."""
    return max(asked, MOST_LANES)


def profiles_for(path: Path, max_lanes: int, tables: Shapes, sides: Sequence[Sides] = UNSIDED) -> tuple[Profile, ...]:
    """The profiles of the bundle's graph at `path` with its `tables`: one for each of `sides`, duplicates left out.

    Raises SetupError if it isn't in a bundle.
    """
    record = manifest_beside(path)
    graph = record["graphs"][_name(record, path)]
    ports = {port["name"]: tuple(port["shape"]) for port in graph["inputs"]}
    adapters = {name: tuple((size,) * 3 for size in shape) for name, shape in tables.items()}
    lanes = most_lanes(max_lanes)
    batch = 1, min(USUAL_LANES, lanes), lanes
    found = []
    for one in sides:
        sizes = {"lanes": batch, "n": batch, **one}
        feeds = {name: _ranges(name, shape, sizes, path) for name, shape in ports.items()}
        found.append(Profile.of({**feeds, **adapters}))
    return tuple(profile for place, profile in enumerate(found) if profile not in found[:place])


def manifest_beside(path: Path) -> dict[str, Any]:
    """manifest.json of the bundle that a graph lies in. Raises SetupError."""
    try:
        record: dict[str, Any] = read_json(read_file(path.parent / "manifest.json", MAX_MANIFEST))
    except (OSError, ValueError):
        raise SetupError(f"bundle: {path.parent} has no manifest.json that can be read; link the checkpoint") from None
    return record


def graph_name(path: Path) -> str:
    """The name that the bundle has for the graph at `path`. Raises SetupError if it isn't in a bundle."""
    return _name(manifest_beside(path), path)


def _name(record: Mapping[str, Any], path: Path) -> str:
    """The name of the graph at `path`; a pinned mix's graph has the same name as the bundle's own."""
    mixes = [mix["graphs"] for mix in record.get("pinned", ())]
    for graphs in (record["graphs"], *mixes):
        for name, graph in graphs.items():
            if graph["file"] == path.name:
                return str(name)
    raise SetupError(f"bundle: {path.parent / 'manifest.json'} has no graph {path.name}; link the checkpoint again")


def _ranges(name: str, shape: Sequence[int | str], sizes: Mapping[str, Range], path: Path) -> tuple[Range, ...]:
    sizes = {**sizes, **{one: RANKS for one in shape if isinstance(one, str) and one.endswith(RANK)}}
    unknown = [dimension for dimension in shape if isinstance(dimension, str) and dimension not in sizes]
    if unknown:
        raise SetupError(
            f"bundle: {path.name}: the size {unknown[0]!r} of {name} is unknown; link the checkpoint again"
        )
    return tuple((one,) * 3 if isinstance(one, int) else sizes[one] for one in shape)

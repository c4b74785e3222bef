"""Between which sizes a graph's inputs lie: what TensorRT makes one engine for.

A graph has a profile for the sides of the usual picture, and one for those of every picture, which comes last and
includes the other. Which sides those are is the manifest's to say. Tables of adapters are as long as they are; a lane
has up to MOST_RANK rows of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impasto_server.bundle import MAX_MANIFEST, Range, Sides
from impasto_server.errors import SetupError
from impasto_server.strangers import read_file, read_json

MOST_LANES = 16  # where the settings don't say; what `impasto calibrate` tries, and what a scorer's batch has
USUAL_LANES = 8
MOST_RANK = 1024  # of all of a lane's adapters together
RANKS = (1, 16, MOST_RANK)
RANK = "_K"  # how the names of their dimension end
BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)

UNSIDED: Sequence[Sides] = ({},)  # of graphs whose inputs are all of one size, but for their lanes

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Profile:
    """Shapes by input: the `least`, the `usual` for which kernels are chosen, and the `most`."""

    least: Shapes
    usual: Shapes
    most: Shapes

    @classmethod
    def of(cls, ranges: Mapping[str, tuple[Range, ...]]) -> Profile:
        """From the ranges of every dimension of every input."""
        return cls(*({name: tuple(one[i] for one in dims) for name, dims in ranges.items()} for i in range(3)))

    def holds(self, shapes: Shapes) -> bool:
        """Whether inputs of these shapes can be run under it."""
        return all(
            all(low <= size <= high for low, size, high in zip(self.least[name], shape, self.most[name], strict=True))
            for name, shape in shapes.items()
        )


def bucket(rows: int, most: int) -> int:
    """The size that a batch of `rows` is padded up to, so that few sizes are met; never beyond `most`."""
    assert 0 < rows <= most
    return next((size for size in BUCKETS if rows <= size <= most), most)


def most_lanes(asked: int) -> int:
    """The rows of the largest batch that an engine is made for; no fewer than a scorer's, whose graphs are as small."""
    return max(asked, MOST_LANES)


def profiles_for(path: Path, max_lanes: int, tables: Shapes, sides: Sequence[Sides] = UNSIDED) -> tuple[Profile, ...]:
    """Of the bundle's graph at `path`, with its `tables` as they are: one for each of `sides`, unless two are alike.

    Raises SetupError without a bundle around it.
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
    """What the bundle around it calls the graph at `path`. Raises SetupError without a bundle."""
    return _name(manifest_beside(path), path)


def _name(record: Mapping[str, Any], path: Path) -> str:
    """Of the graph in `path`; a pinned mix's is called as the bundle's own."""
    mixes = [mix["graphs"] for mix in record.get("pinned", ())]
    for graphs in (record["graphs"], *mixes):
        for name, graph in graphs.items():
            if graph["file"] == path.name:
                return str(name)
    raise SetupError(
        f"bundle: {path.parent / 'manifest.json'} knows of no graph {path.name}; link the checkpoint again"
    )


def _ranges(name: str, shape: Sequence[int | str], sizes: Mapping[str, Range], path: Path) -> tuple[Range, ...]:
    sizes = {**sizes, **{one: RANKS for one in shape if isinstance(one, str) and one.endswith(RANK)}}
    unknown = [dimension for dimension in shape if isinstance(dimension, str) and dimension not in sizes]
    if unknown:
        raise SetupError(f"bundle: {path.name}: nothing is known of the size {unknown[0]!r} of {name}; link again")
    return tuple((one,) * 3 if isinstance(one, int) else sizes[one] for one in shape)

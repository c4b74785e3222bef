"""Whether a file's tensors are those of a layout: all of them, in the right shapes, and no others."""

from __future__ import annotations

from collections.abc import Mapping

from impasto_export.errors import MisfitCheckpoint
from impasto_export.feedforward.source import Source

Shape = tuple[int, ...]
# What a norm tracked as it was trained. Instance norms of old versions of torch have it, too, and don't use it.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def check(source: Source, layout: str, wanted: Mapping[str, Shape], spare: tuple[str, ...] = ()) -> None:
    """Raises MisfitCheckpoint unless these are its tensors, besides those whose names end with one of `spare`."""
    held = source.shapes
    missing = sorted(wanted.keys() - held.keys())
    unused = sorted(name for name in held.keys() - wanted.keys() if not (spare and name.endswith(spare)))
    misfit = [
        f"{name}: {list(held[name])}, {list(shape)} is expected"
        for name, shape in sorted(wanted.items())
        if name in held and held[name] != shape
    ]
    if missing or unused or misfit:
        raise MisfitCheckpoint(str(source), missing, misfit, unused, layout)


def outputs(source: Source, weight: str) -> int:
    """Of a conv by its weight [out, in, k, k]; 1 where there is no such tensor, which `check` then says."""
    shape = source.shapes.get(weight, ())
    return shape[0] if len(shape) == 4 else 1

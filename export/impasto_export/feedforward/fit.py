"""Check that a file's tensors are exactly those of a layout, in the right shapes."""

from __future__ import annotations

from collections.abc import Mapping

from impasto_export.errors import MisfitCheckpoint
from impasto_export.feedforward.source import Source

Shape = tuple[int, ...]
# A norm's running statistics. Instance norms of old versions of torch have them, too, but don't use them.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def check(source: Source, layout: str, wanted: Mapping[str, Shape], spare: tuple[str, ...] = ()) -> None:
    """Raises MisfitCheckpoint unless the file has exactly the `wanted` tensors, but for names that end in `spare`."""
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
    """A conv's outputs, from its weight [out, in, k, k]; 1 where that is missing, which `check` then reports."""
    shape = source.shapes.get(weight, ())
    return shape[0] if len(shape) == 4 else 1

"""Write the files of `impasto generate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from impasto_client.generation import Candidate, Generation


def numbered(path: Path, count: int) -> list[Path]:
    """The path itself for a single file; for several, OUT-1.png, OUT-2.png and so on."""
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, count + 1)]


def written(
    generation: Generation, out: Path | None, file: Callable[[Candidate], bytes]
) -> list[tuple[Path, Candidate]]:
    """Write every candidate; returns each with its file, in order. Without `out`, a file is named after its seed.
    `file` gives the bytes of a candidate's.

    Raises OSError.
    """
    candidates = generation.candidates
    by_seed = [Path(f"impasto-{candidate.seed}.png") for candidate in candidates]
    pairs = list(zip(by_seed if out is None else numbered(out, len(candidates)), candidates, strict=True))
    for path, candidate in pairs:
        path.write_bytes(file(candidate))
    return pairs

"""A recipe whose file is imported for a bundle at once: what comes out is ready for a registry."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from impasto_export import manifest
from impasto_export.adapters import importer
from impasto_export.adapters.importer import Said
from impasto_export.adapters.sources import BOTTLENECK, SECOND
from impasto_export.errors import ExportError
from impasto_fit.budget import Budget
from impasto_fit.errors import CheckpointError
from impasto_fit.masked.drop import halves, is_pair
from impasto_fit.pictures import Picture
from impasto_fit.progress import Progress
from impasto_fit.recipe import Recipe, Words

NAME = "fitted"  # an importer wants one, but it stands nowhere in the adapter


@dataclass(frozen=True)
class Served:
    """The recipe, and the bundle that was linked from its checkpoint."""

    recipe: Recipe
    bundle: Path

    @property
    def seed(self) -> int:
        return self.recipe.seed

    def fit(self, pictures: Sequence[Picture], words: Words, budget: Budget, progress: Progress) -> bytes:
        """An adapter's file in impasto's own format (docs/formats.md), its header with the provenance under `source`.

        Raises:
            CheckpointError: the bundle is none, or of another checkpoint.
        """
        try:
            manifest.load(self.bundle)
        except ExportError as error:
            raise CheckpointError(f"bundle: {error}") from None
        return imported(self.recipe.fit(pictures, words, budget, progress), self.bundle)


def imported(data: bytes, bundle: Path) -> bytes:
    """The adapter of a file that a recipe gave.

    Raises:
        CheckpointError: the bundle is none, or of another checkpoint.
    """
    with tempfile.TemporaryDirectory(prefix="impasto-fit-") as folder:
        place, said = Path(folder) / "fitted.safetensors", Said()
        if is_pair(data):
            base, second = halves(data)
            place, said = Path(folder) / BOTTLENECK, Said(upscaler=Path(folder) / SECOND)
            (Path(folder) / SECOND).write_bytes(second or b"")
            place.write_bytes(base)
        else:
            place.write_bytes(data)
        try:
            (made,) = importer.adapters(place, NAME, manifest.load(bundle), said, bundle).values()
        except ExportError as error:
            raise CheckpointError(f"bundle: {bundle} doesn't take what was fitted: {error}") from None
    return made.data

"""A new style on a trained feed-forward net: γ and β of its norms alone are learnt, or the embedding they come from.

The first is CIN's (arXiv 1610.07629, section 3.2), the second is for Ghiasi's nets (arXiv 1705.06830).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from impasto_export.errors import ExportError
from impasto_export.feedforward import link
from impasto_export.feedforward.found import Found
from impasto_export.feedforward.net import Array
from impasto_fit import pictures as looked_at
from impasto_fit.budget import Budget
from impasto_fit.draws import Draws
from impasto_fit.errors import CheckpointError, PictureError
from impasto_fit.file import dump
from impasto_fit.loop import OneCycle, Session, Task
from impasto_fit.nets.precision import half_precision
from impasto_fit.pictures import Picture, digest, picture_of
from impasto_fit.pixels import eyes
from impasto_fit.pixels.eyes import Eyes
from impasto_fit.pixels.photos import squares
from impasto_fit.progress import Progress
from impasto_fit.provenance import Provenance, digest_all, digest_of
from impasto_fit.recipe import Words
from impasto_fit.text.trunk import painted, tensors


@dataclass(frozen=True)
class Vector:
    """`checkpoint` is any net that `impasto link` reads and that has vectors; `eyes` is SqueezeNet's or VGG16's file;
    `photos` are painted while it learns.

    `through` says what is learnt. It begins as `start`, γ and β or E, such as a predictor's; without one as the net's
    neutral vector, as the mean of its own styles, or as γ = 1, β = 0. An E begins as 0.
    """

    checkpoint: Path
    eyes: Path
    photos: tuple[Picture, ...] = field(repr=False, compare=False)
    through: Literal["vector", "embedding"] = "vector"
    start: tuple[float, ...] = ()
    rate: float = 5e-2
    batch: int = 4
    crop: int = 224
    seed: int = 0

    def fit(self, pictures: Sequence[Picture], words: Words, budget: Budget, progress: Progress) -> bytes:
        """The studio's layout of one style: `vector` [N], of the net that its header names."""
        looked_at.check(pictures)
        try:
            looked_at.check(self.photos, most=10_000)
        except PictureError as error:
            raise PictureError(f"photos: {error}") from None
        found = _net(self.checkpoint)
        sources = (found.net.digest, digest_of(self.eyes) if self.eyes.is_file() else "", *map(digest, self.photos))
        source = Provenance.of(self, digest_all(*sources), pictures, words)
        session = Session(source.fit, self.seed, progress)
        lesson = Lesson.of(self, found, eyes.opened(self.eyes, pictures, self.photos))
        session.run("vector", lesson.task(), budget)
        told = {"name": "", "network": found.net.digest, "title": words.style}
        return dump({"vector": lesson.vector().detach()}, {**told, **source.header(session.state.step)})


@dataclass(frozen=True)
class Lesson:
    """One style in training: `learnt` is its vector [N], or its E [D], of which `expand` (weight, bias) makes that."""

    recipe: Vector
    found: Found
    weights: Mapping[str, Tensor]
    eyes: Eyes
    learnt: nn.Parameter
    expand: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, recipe: Vector, found: Found, seen_by: Eyes) -> Lesson:
        expand = None
        if recipe.through == "embedding":
            if found.expand is None:
                raise CheckpointError(f"{recipe.checkpoint}: makes nothing of an embedding; fit through its vector")
            expand = (torch.from_numpy(found.expand.weight), torch.from_numpy(found.expand.bias))
        start = _start(recipe, found)
        return cls(recipe, found, tensors(found.net), seen_by, nn.Parameter(torch.from_numpy(start)), expand)

    def task(self) -> Task:
        optimiser = torch.optim.Adam([self.learnt], self.recipe.rate, (0.9, 0.99))
        return Task({"learnt": self.learnt}, optimiser, self.loss, self.preview, OneCycle(warmup=5))

    def vector(self) -> Tensor:
        """[N]."""
        if self.expand is None:
            return self.learnt
        weight, bias = self.expand
        return weight @ self.learnt + bias

    def loss(self, draws: Draws) -> Tensor:
        photo = self._photo(self.recipe.batch, draws)
        return self.eyes.loss(self.paint(photo), photo, draws.numpy).mean()

    def paint(self, photo: Tensor) -> Tensor:
        with half_precision("cpu"):
            found = painted(self.found.net, self.weights, photo, self.vector().expand(len(photo), -1))
        return found.float()

    def preview(self) -> Picture:
        return picture_of(self.paint(self._photo(1, Draws.of(self.recipe.seed, "preview", -1)))[0])

    def _photo(self, n: int, draws: Draws) -> Tensor:
        side = self.recipe.crop - self.recipe.crop % self.found.net.multiple_of
        return squares(self.recipe.photos, n, side, draws.numpy)


def _net(place: Path) -> Found:
    """
    Raises:
        CheckpointError: it isn't a net that is linked, or it has no vectors.
    """
    try:
        found = link.read(place)
    except (ExportError, OSError) as error:
        raise CheckpointError(str(error)) from None
    if not found.net.vector_size:
        raise CheckpointError(f"{place}: is one style in all its weights; give a net with styles as vectors")
    return found


def _start(recipe: Vector, found: Found) -> Array:
    through_e = recipe.through == "embedding"
    size = found.expand.width if through_e and found.expand else found.net.vector_size
    if recipe.start:
        if len(recipe.start) != size:
            raise CheckpointError(f"start: got {len(recipe.start)} numbers; {recipe.through} has {size}")
        return np.array(recipe.start, np.float32)
    if through_e:
        return np.zeros(size, np.float32)
    if found.neutral is not None:
        return found.neutral.copy()
    if found.vectors:
        mean: Array = np.stack(list(found.vectors.values())).mean(0, dtype=np.float32)
        return mean
    sizes = [found.net.channels(conv) for conv in found.net.conditioned]
    return np.concatenate([np.repeat(np.array([1, 0], np.float32), n) for n in sizes])

"""StyleTransferCLIP: the embedding E* = argmin L_CLIP(NST(C, E), text), on a net that takes any style as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from impasto_fit import pictures as looked
from impasto_fit.budget import Budget
from impasto_fit.draws import Draws
from impasto_fit.file import dump
from impasto_fit.loop import OneCycle, Session, Task
from impasto_fit.pictures import Picture, digest, picture_of
from impasto_fit.progress import Progress
from impasto_fit.provenance import Provenance
from impasto_fit.recipe import Words
from impasto_fit.text import clip as clips
from impasto_fit.text import photos, views
from impasto_fit.text.clip import Clip
from impasto_fit.text.ghiasi import Ghiasi
from impasto_fit.text.prior import Prior, embedded

EMBEDDING = "embedding"


@dataclass(frozen=True)
class StyleTransferClip:
    """`start` is a picture whose embedding is E0, else E0 is the prior's mean. Each step paints `batch` cuts of `side`
    px of the photographs; each is seen from `perspectives` sides in random cuts of at least `least` of it.

    `sane` weighs the distance to the prior of paintings, without which E becomes an adversary's.
    """

    net: Ghiasi
    clip: Clip
    prior: Prior
    start: Picture | None = None
    side: int = 224
    batch: int = 2
    perspectives: int = 8
    least: float = 0.5
    distortion: float = 0.3
    sane: float = 0.02
    rate: float = 5e-2
    seed: int = 0

    def fit(self, pictures: Sequence[Picture], words: Words, budget: Budget, progress: Progress) -> bytes:
        """A safetensors file with `embedding` [D] and the digest of its network, as `impasto adapters import` reads it.

        Raises:
            PictureError, WordsError: before any work; WordsError names the words that the CLIP doesn't know.
        """
        looked.check(pictures)
        text = clips.checked(self.clip, words.style)
        lesson = Lesson(self, [photos.scaled(picture, self.side) for picture in pictures], clips.heard(self.clip, text))
        embedding = nn.Parameter(self.begun())
        origin = [self.net.digest, self.clip.digest, *([digest(self.start)] if self.start is not None else [])]
        provenance = Provenance.of(self, " ".join(origin), pictures, words)
        session = Session(provenance.fit, self.seed, progress)
        task = Task(
            {EMBEDDING: embedding},
            torch.optim.Adam([embedding], self.rate, (0.9, 0.99)),
            lambda draws: lesson.loss(embedding, draws),
            lambda: lesson.preview(embedding),
            OneCycle(warmup=5),
        )
        session.run("embedding", task, budget)
        told = provenance.header(len(session.losses)) | {"network": self.net.digest, "title": text}
        return dump({EMBEDDING: embedding.detach().contiguous()}, told)

    def begun(self) -> Tensor:
        """E0 [D]."""
        if self.start is None:
            return self.prior.mean.clone()
        looked.check([self.start])
        return embedded(self.net.predictor, [self.start])[0]


@dataclass(frozen=True)
class Lesson:
    """Photographs [1, 3, H, W], and the words' vector [d]."""

    recipe: StyleTransferClip
    photographs: Sequence[Tensor]
    heard: Tensor = field(repr=False)

    def loss(self, embedding: Tensor, draws: Draws) -> Tensor:
        """The mean of 1 - cos over views, and the price of strangeness."""
        recipe = self.recipe
        photo = drawn(self.photographs, recipe.batch, recipe.side, draws)
        painted = recipe.net.painted(photo, embedding.expand(len(photo), -1))
        seen = recipe.clip.see(augmented(painted, recipe.perspectives, recipe.least, recipe.distortion, draws))
        return (1 - seen @ self.heard).mean() + recipe.sane * recipe.prior.distance(embedding[None])[0]

    def preview(self, embedding: Tensor) -> Picture:
        return picture_of(self.recipe.net.painted(self.photographs[0], embedding[None])[0])


def drawn(photographs: Sequence[Tensor], batch: int, side: int, draws: Draws) -> Tensor:
    """Random squares [batch, 3, side, side] of random photographs."""
    which = draws.numpy.integers(len(photographs), size=batch)
    return torch.cat([views.cuts(photographs[i], 1, side, draws.torch) for i in which])


def augmented(painted: Tensor, count: int, least: float, distortion: float, draws: Draws) -> Tensor:
    """`count` views of each of [n, 3, S, S]: a cut of at least `least` of it, in perspective; of one size."""
    side, seen = painted.shape[-1], []
    for _ in range(count):
        cut = round(side * float(draws.numpy.uniform(least, 1)))
        squares = torch.cat([views.cuts(row[None], 1, cut, draws.torch) for row in painted])
        seen.append(F.interpolate(squares, (side, side), mode="bilinear", antialias=True))
    return views.aside(torch.cat(seen), distortion, draws.torch)

"""What a stylizer is taught: a style to be reached, how heavily it weighs, and how bad a painted row is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from impasto_fit.nets.perceptual import Manner, Perceptual, Target, content_loss, roughness
from impasto_fit.nets.precision import half_precision
from impasto_fit.pictures import Picture, unit

STYLE, ROUGHNESS, PIXELS = 5.0, 0.5, 6.0  # weights of losses; that of content is 1
LEVEL, SPREAD = -0.15, 1.2  # of a levelled photograph's logits
SHIFT = 4  # px: the perceptual network's strides see another grid each time, and leave none in pictures


@dataclass(frozen=True)
class Lesson:
    """A style to learn. The further photographs are from it, the less its loss weighs: so all get equally strong.

    `strength` is for what the eye finds too weak or too strong then.
    """

    target: Target
    distance: float
    strength: float = 1.0

    @property
    def weight(self) -> float:
        return STYLE * self.strength / math.sqrt(self.distance)


@dataclass(frozen=True)
class Teacher:
    """Knows how some photographs look to the perceptual network, and judges rows that were painted."""

    perceptual: Perceptual
    photographs: Manner

    @classmethod
    def of(cls, perceptual: Perceptual, photos: Sequence[Picture]) -> Teacher:
        return cls(perceptual, Manner.stacked([manner_of(perceptual, photo) for photo in photos]))

    def lesson(self, picture: Picture, strength: float = 1.0) -> Lesson:
        """The style of a picture uint8 [H, W, 3], its brush strokes as wide as they are there in pixels."""
        target = Target.of(manner_of(self.perceptual, picture))
        rows = Target.stacked([target] * len(self.photographs.means[0]))
        return Lesson(target.half(), float(rows.loss(self.photographs).median()), strength)

    def loss(
        self, painted: Tensor, photo: Tensor, lessons: Sequence[Lesson | None], rng: np.random.Generator
    ) -> Tensor:
        """[n]: a row of None is to be the photograph itself, as nearly as it can be painted."""
        plain = torch.tensor([lesson is None for lesson in lessons], device=photo.device)
        wanted = torch.where(plain.view(-1, 1, 1, 1), levelled(photo), photo)
        dy, dx = (int(shift) for shift in rng.integers(0, SHIFT, 2))
        with half_precision(photo.device.type):
            found = self.perceptual(painted[..., dy:, dx:])
            with torch.no_grad():
                content = self.perceptual(wanted[..., dy:, dx:])
        losses = content_loss(found, content) + ROUGHNESS * roughness(painted) * ~plain
        losses = losses + PIXELS * (painted - wanted).abs().mean((1, 2, 3)) * plain
        styles = {i: lesson for i, lesson in enumerate(lessons) if lesson is not None}
        if not styles:
            return losses
        rows = torch.tensor(list(styles), device=photo.device)
        manner = Manner.of({name: part[rows] for name, part in found.items()})
        weights = torch.tensor([lesson.weight for lesson in styles.values()], device=photo.device)
        away = Target.stacked([lesson.target for lesson in styles.values()]).loss(manner)
        return losses.index_add(0, rows, weights * away)


def levelled(photo: Tensor) -> Tensor:
    """The photograph as nearly as a network can paint it whose last layer is a norm: with even exposure."""
    logits = torch.logit(photo.clamp(0.02, 0.98))
    return torch.sigmoid(F.instance_norm(logits) * SPREAD + LEVEL)


@torch.no_grad()
def manner_of(perceptual: Perceptual, picture: Picture) -> Manner:
    device = perceptual.mean.device
    with half_precision(device.type):
        return Manner.of(perceptual(unit(picture).to(device)))

"""In whose eyes a painted photograph is near to a style and to what it shows: VGG by Gram matrices, or SqueezeNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from impasto_fit.errors import CheckpointError
from impasto_fit.nets.perceptual import Perceptual
from impasto_fit.nets.vgg import Vgg
from impasto_fit.pictures import Picture, unit
from impasto_fit.pixels.gram import Style, content
from impasto_fit.pixels.lesson import Lesson, Teacher

# CIN's, on VGG16 with average pooling (arXiv 1610.07629): Gram over places, content relu3_3 x 1.
CIN_STYLE = dict.fromkeys(("relu1_2", "relu2_2", "relu3_3", "relu4_3"), 1e-4)
CIN_CONTENT = "relu3_3"


class Eyes(Protocol):
    """Knows the style already."""

    def loss(self, painted: Tensor, photo: Tensor, rng: np.random.Generator) -> Tensor:
        """[n] of pictures [n, 3, H, W] in 0..1."""
        ...


@dataclass(frozen=True)
class GramEyes:
    vgg: Vgg
    style: Style

    @classmethod
    @torch.no_grad()
    def of(cls, vgg: Vgg, pictures: Sequence[Picture]) -> GramEyes:
        return cls(vgg, Style.of([vgg(unit(one)) for one in pictures], CIN_STYLE, "places"))

    def loss(self, painted: Tensor, photo: Tensor, rng: np.random.Generator) -> Tensor:
        found = self.vgg(painted)
        with torch.no_grad():
            wanted = self.vgg(photo)[CIN_CONTENT]
        return content(found[CIN_CONTENT], wanted, "places") + self.style.loss(found)


@dataclass(frozen=True)
class TeacherEyes:
    """The studio's: means and covariances in units of the style's own deviations. One picture is a style."""

    teacher: Teacher
    lesson: Lesson

    def loss(self, painted: Tensor, photo: Tensor, rng: np.random.Generator) -> Tensor:
        return self.teacher.loss(painted, photo, [self.lesson] * len(painted), rng)


def opened(path: Path, pictures: Sequence[Picture], photos: Sequence[Picture]) -> Eyes:
    """Those of a file: SqueezeNet's arrays (.npz), or VGG16's state dict.

    Raises:
        CheckpointError: it can't be read.
    """
    if path.suffix != ".npz":
        return GramEyes.of(Vgg.load(path, "average"), pictures)
    try:
        perceptual = Perceptual.load(path)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: can't be read as SqueezeNet's arrays ({error}); get it again") from None
    teacher = Teacher.of(perceptual, photos[:12])
    return TeacherEyes(teacher, teacher.lesson(pictures[0]))

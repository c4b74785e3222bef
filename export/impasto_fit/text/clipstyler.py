"""CLIPstyler (Kwon and Ye, arXiv 2112.00374): a sentence becomes the weights of a U-Net, which `impasto link` reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from impasto_export.feedforward import clipstyler
from impasto_export.feedforward.net import Net
from impasto_fit import pictures as looked
from impasto_fit.budget import Budget
from impasto_fit.draws import Draws
from impasto_fit.file import dump
from impasto_fit.loop import Session, Task
from impasto_fit.pictures import Picture, picture_of
from impasto_fit.progress import Progress
from impasto_fit.provenance import Provenance
from impasto_fit.recipe import Words
from impasto_fit.text import clip as clips
from impasto_fit.text import content, losses, photos, trunk, views
from impasto_fit.text.clip import Clip
from impasto_fit.text.content import Sense

STRIDE = 8  # px: sides are multiples of this


@dataclass(frozen=True)
class ClipStyler:
    """The paper's constants. `side` is what photographs are painted at, `crop` a patch of it, px; `width` the U-Net's
    channels at full size; the four weights are λ_d, λ_p, λ_c and λ_tv; the rate is halved every `halved` steps.

    As in the paper, one photograph is usual; of several, each step takes one by chance.
    """

    clip: Clip
    sense: Sense
    side: int = 512
    crop: int = 128
    crops: int = 64
    distortion: float = 0.5
    slack: float = losses.SLACK
    direction: float = 500.0
    patches: float = 9000.0
    content: float = 150.0
    variation: float = 2e-3
    source: str = "a Photo"
    width: int = 16
    rate: float = 5e-4
    halved: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.side % STRIDE or not 0 < self.crop <= self.side:
            problem = f"got {self.side} and {self.crop} px"
            raise ValueError(f"side and crop: {problem}; a multiple of {STRIDE}, and at most that, are needed")

    def fit(self, pictures: Sequence[Picture], words: Words, budget: Budget, progress: Progress) -> bytes:
        """The U-Net as safetensors, under CLIPstyler's own names.

        Raises:
            PictureError, WordsError: before any work; WordsError names the words that the CLIP doesn't know.
        """
        looked.check(pictures)
        lesson = Lesson.of(self, pictures, clips.checked(self.clip, words.style))
        weights = started(clipstyler.shapes(self.width), Draws.of(self.seed, "net", -1).torch)
        provenance = Provenance.of(self, f"{self.clip.digest} {self.sense.name}", pictures, words)
        session = Session(provenance.fit, self.seed, progress)
        optimiser = torch.optim.Adam(weights.values(), self.rate)
        task = Task(
            weights,
            optimiser,
            lambda draws: lesson.loss(weights, draws),
            lambda: lesson.preview(weights),
            lambda spent, step: 0.5 ** (step // self.halved),
        )
        session.run("net", task, budget)
        tensors = {name: weight.detach().contiguous() for name, weight in weights.items()}
        return dump(tensors, provenance.header(len(session.losses)))


@dataclass(frozen=True)
class Lesson:
    """What the U-Net is taught: photographs [1, 3, S, S], their vectors [1, d], the direction of the words [d]."""

    recipe: ClipStyler
    net: Net
    photographs: Sequence[Tensor]
    seen: Sequence[Tensor]
    wanted: Tensor

    @classmethod
    def of(cls, recipe: ClipStyler, pictures: Sequence[Picture], text: str) -> Lesson:
        shapes = clipstyler.shapes(recipe.width)
        net = clipstyler.of({name: torch.zeros(shape).numpy() for name, shape in shapes.items()})
        photographs = photos.squares(pictures, recipe.side)
        with torch.no_grad():
            seen = [recipe.clip.see(photo) for photo in photographs]
        wanted = losses.direction(clips.heard(recipe.clip, text), clips.heard(recipe.clip, recipe.source))
        return cls(recipe, net, photographs, seen, wanted)

    def loss(self, weights: Mapping[str, Tensor], draws: Draws) -> Tensor:
        """λ_d L_dir + λ_p L_patch + λ_c L_c + λ_tv L_tv."""
        recipe = self.recipe
        which = int(draws.numpy.integers(len(self.photographs)))
        photo, seen = self.photographs[which], self.seen[which]
        painted = trunk.painted(self.net, weights, photo, shown=False)
        patches = views.cuts(painted, recipe.crops, recipe.crop, draws.torch)
        found = recipe.clip.see(views.aside(patches, recipe.distortion, draws.torch))
        return (
            recipe.direction * losses.directional(recipe.clip.see(painted), seen, self.wanted).mean()
            + recipe.patches * losses.patches(found, seen, self.wanted, recipe.slack)
            + recipe.content * content.loss(recipe.sense, painted, photo)
            + recipe.variation * losses.variation(painted)
        )

    def preview(self, weights: Mapping[str, Tensor]) -> Picture:
        return picture_of(trunk.painted(self.net, weights, self.photographs[0])[0])


def started(shapes: Mapping[str, tuple[int, ...]], draw: torch.Generator) -> dict[str, nn.Parameter]:
    """Convolutions as torch begins them: uniform within one over the root of the inputs, weights and biases alike."""
    fans = {name.rpartition(".")[0]: math.prod(shape[1:]) for name, shape in shapes.items() if len(shape) == 4}
    found = {}
    for name, shape in shapes.items():
        bound = fans[name.rpartition(".")[0]] ** -0.5
        found[name] = nn.Parameter((torch.rand(shape, generator=draw) * 2 - 1) * bound)
    return found

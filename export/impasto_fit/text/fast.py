"""CLIPstyler's fast net: a sentence becomes the weights of a decoder over a fixed encoder, for any photograph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from impasto_export.errors import CheckpointError as Unreadable
from impasto_export.feedforward import decoder, link
from impasto_export.feedforward.found import Said
from impasto_export.feedforward.net import Net
from impasto_fit import pictures as looked
from impasto_fit.budget import Budget
from impasto_fit.draws import Draws
from impasto_fit.errors import CheckpointError
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

STRIDE = 8  # px
START = f"{decoder.PREFIX}."


@dataclass(frozen=True)
class ClipStylerFast:
    """`net` is an encoder with the decoder to start from (AdaIN's); photographs are cut to `side` px, `batch` a step,
    each seen from `perspectives` sides. Weights and the rate, which falls as 1 / (1 + `decay` i), are the paper's."""

    net: Net
    clip: Clip
    sense: Sense
    side: int = 224
    batch: int = 4
    perspectives: int = 16
    distortion: float = 0.5
    slack: float = losses.SLACK
    direction: float = 1.0
    patches: float = 10.0
    content: float = 1.0
    variation: float = 1e-4
    source: str = "a Photo"
    rate: float = 1e-4
    decay: float = 5e-5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.side % STRIDE:
            raise ValueError(f"side: got {self.side} px; a multiple of {STRIDE} is needed")

    def fit(self, pictures: Sequence[Picture], words: Words, budget: Budget, progress: Progress) -> bytes:
        """The decoder as safetensors, under its Sequential's names (`1.weight` …): `impasto adapters import` takes it
        as an adapter of a bundle with the same encoder, `impasto link` as a net of its own.

        Raises:
            PictureError, WordsError: before any work; WordsError names the words that the CLIP doesn't know.
        """
        looked.check(pictures)
        text = clips.checked(self.clip, words.style)
        wanted = losses.direction(clips.heard(self.clip, text), clips.heard(self.clip, self.source))
        held = trunk.tensors(self.net)
        weights = {name: nn.Parameter(value) for name, value in held.items() if name.startswith(START)}
        lesson = Lesson(self, held, [photos.scaled(picture, self.side) for picture in pictures], wanted)
        origin = f"{self.net.digest} {self.clip.digest} {self.sense.name}"
        provenance = Provenance.of(self, origin, pictures, words)
        session = Session(provenance.fit, self.seed, progress)
        task = Task(
            weights,
            torch.optim.Adam(weights.values(), self.rate),
            lambda draws: lesson.loss(weights, draws),
            lambda: lesson.preview(weights),
            lambda spent, step: 1 / (1 + self.decay * step),
        )
        session.run("decoder", task, budget)
        tensors = {name.removeprefix(START): weight.detach().contiguous() for name, weight in weights.items()}
        return dump(tensors, provenance.header(len(session.losses)))


@dataclass(frozen=True)
class Lesson:
    """What the decoder is taught: photographs [1, 3, H, W], the direction of the words [d]."""

    recipe: ClipStylerFast
    held: Mapping[str, Tensor]
    photographs: Sequence[Tensor]
    wanted: Tensor

    def loss(self, weights: Mapping[str, Tensor], draws: Draws) -> Tensor:
        recipe, n = self.recipe, self.recipe.batch
        which = draws.numpy.integers(len(self.photographs), size=n)
        photo = torch.cat([views.cuts(self.photographs[i], 1, recipe.side, draws.torch) for i in which])
        painted = trunk.painted(recipe.net, {**self.held, **weights}, photo, shown=False)
        with torch.no_grad():
            seen = recipe.clip.see(photo)
        turned = views.aside(painted.repeat(recipe.perspectives, 1, 1, 1), recipe.distortion, draws.torch)
        start = seen.repeat(recipe.perspectives, 1)
        return (
            recipe.direction * losses.directional(recipe.clip.see(painted), seen, self.wanted).mean()
            + recipe.patches * losses.patches(recipe.clip.see(turned), start, self.wanted, recipe.slack)
            + recipe.content * content.loss(recipe.sense, painted, photo)
            + recipe.variation * losses.variation(painted)
        )

    def preview(self, weights: Mapping[str, Tensor]) -> Picture:
        side = self.recipe.side
        photo = self.photographs[0][..., :side, :side]
        return picture_of(trunk.painted(self.recipe.net, {**self.held, **weights}, photo)[0])


def opened(start: Path, encoder: Path) -> Net:
    """The net of a decoder's file and vgg_normalised's.

    Raises:
        CheckpointError: one of them is something else.
    """
    try:
        net = link.read(start, Said(encoder=encoder)).net
    except Unreadable as error:
        raise CheckpointError(f"checkpoint: {error}") from None
    if net.name != decoder.NAME:
        raise CheckpointError(f"checkpoint: {start} is {net.name}; a decoder of AdaIN's layout is needed")
    return net

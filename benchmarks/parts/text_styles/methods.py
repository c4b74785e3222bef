"""The ways from a text to painted photographs, each with the seconds that its fits took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from benchmarks.common.bench import timed
from safetensors.torch import load
from studio.gallery.looks.names import Wish, named
from torch import Tensor, nn
from torch.nn import functional as F

from impasto_export.feedforward import clipstyler, decoder
from impasto_export.feedforward.net import Net
from impasto_fit.budget import Budget
from impasto_fit.pictures import Picture, picture_of, read, unit
from impasto_fit.pixels.gatys import Gatys
from impasto_fit.progress import Silent
from impasto_fit.recipe import Words
from impasto_fit.text import trunk, views
from impasto_fit.text.clipstyler import ClipStyler, started
from impasto_fit.text.fast import ClipStylerFast
from impasto_fit.text.styletransferclip import EMBEDDING, StyleTransferClip

NARROW = 8  # the fast net here is that many times narrower than the paper's: AdaIN's encoder can't be had


@dataclass(frozen=True)
class Painted:
    """A picture for each photograph, and the seconds of each fit."""

    pictures: Sequence[Picture]
    seconds: Sequence[float]


class Method(Protocol):
    """`paint` fits a text's style and paints photographs of one square size in it."""

    def paint(self, text: str, photographs: Sequence[Picture]) -> Painted: ...


@dataclass(frozen=True)
class OneNetEach:
    """CLIPstyler: a U-Net for each text and photograph, as in the paper."""

    recipe: ClipStyler
    steps: int

    def paint(self, text: str, photographs: Sequence[Picture]) -> Painted:
        done = [timed(lambda photo=photo: self._one(text, photo)) for photo in photographs]  # type: ignore[misc]
        return Painted([picture for _, picture in done], [seconds for seconds, _ in done])

    def _one(self, text: str, photo: Picture) -> Picture:
        weights = load(self.recipe.fit([photo], Words(style=text), Budget(self.steps), Silent()))
        net = clipstyler.of({name: value.numpy() for name, value in weights.items()})
        return shown(net, weights, photo)


@dataclass(frozen=True)
class OneDecoder:
    """CLIPstyler's fast form: a decoder for each text, learnt on `lessons`."""

    recipe: ClipStylerFast
    lessons: Sequence[Picture]
    steps: int

    def paint(self, text: str, photographs: Sequence[Picture]) -> Painted:
        words, budget = Words(style=text), Budget(self.steps)
        seconds, data = timed(lambda: self.recipe.fit(self.lessons, words, budget, Silent()))
        learnt = {f"{decoder.PREFIX}.{name}": value for name, value in load(data).items()}
        weights = {**trunk.tensors(self.recipe.net), **learnt}
        return Painted([shown(self.recipe.net, weights, photo) for photo in photographs], [seconds])


@dataclass(frozen=True)
class OneEmbedding:
    """StyleTransferCLIP: an embedding for each text, found on `lessons`."""

    recipe: StyleTransferClip
    lessons: Sequence[Picture]
    steps: int

    def paint(self, text: str, photographs: Sequence[Picture]) -> Painted:
        words, budget = Words(style=text), Budget(self.steps)
        seconds, data = timed(lambda: self.recipe.fit(self.lessons, words, budget, Silent()))
        embedding = load(data)[EMBEDDING][None]
        with torch.no_grad():
            pictures = [picture_of(self.recipe.net.painted(unit(photo), embedding)[0]) for photo in photographs]
        return Painted(pictures, [seconds])


@dataclass(frozen=True)
class FromPicture:
    """Gatys: not from the text, but from a picture of the same look, which another photograph was put into."""

    vgg: Path
    source: Picture
    steps: int

    def paint(self, text: str, photographs: Sequence[Picture]) -> Painted:
        style = looked(self.source, text)
        done = [timed(lambda photo=photo: self._one(style, photo)) for photo in photographs]  # type: ignore[misc]
        return Painted([picture for _, picture in done], [seconds for seconds, _ in done])

    def _one(self, style: Picture, photo: Picture) -> Picture:
        return read(Gatys(self.vgg, photo).fit([style], Words(), Budget(self.steps), Silent()))


@dataclass(frozen=True)
class Procedural:
    """The look itself, drawn over the photograph: what the readers learnt from, and so the most that they can read."""

    def paint(self, text: str, photographs: Sequence[Picture]) -> Painted:
        return Painted([looked(photo, text) for photo in photographs], [0.0])


def looked(photo: Picture, text: str) -> Picture:
    drawn = Wish(named(text)).painted((photo / 255).astype(np.float32), np.random.default_rng(99))
    return np.asarray((drawn * 255).round(), np.uint8)


@torch.no_grad()
def shown(net: Net, weights: trunk.Tensors, photo: Picture) -> Picture:
    """As a server shows it, contrast and all. Sides are multiples of 8."""
    return picture_of(trunk.painted(net, weights, unit(photo))[0])


def autoencoder(lessons: Sequence[Picture], side: int, steps: int, seed: int = 0) -> Net:
    """The fast net's layout, narrower, trained to give photographs back: what AdaIN's encoder and decoder do."""
    draw = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {}
    for part, convs in (("encoder", decoder.ENCODING), (decoder.PREFIX, decoder.DECODING)):
        for place, (out, into) in convs.items():
            out, into = (n if n == 3 else n // NARROW for n in (out, into))
            kernel = 1 if out == into == 3 else 3
            shapes |= {f"{part}.{place}.weight": (out, into, kernel, kernel), f"{part}.{place}.bias": (out,)}
    weights = {
        name: nn.Parameter(value * (2.4 if value.ndim == 4 else 1)) for name, value in started(shapes, draw).items()
    }
    net = decoder.of({name: value.detach().numpy() for name, value in weights.items()})
    optimiser = torch.optim.Adam(weights.values(), 2e-3)
    photographs = [unit(photo) for photo in lessons]
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        photo: Tensor = torch.cat(
            [views.cuts(photographs[(step + i) % len(photographs)], 1, side, draw) for i in (0, 1)]
        )
        optimiser.zero_grad()
        F.l1_loss(trunk.painted(net, weights, photo, shown=False), photo).backward()
        optimiser.step()
    return replace(net, tensors={name: value.detach().numpy() for name, value in weights.items()})

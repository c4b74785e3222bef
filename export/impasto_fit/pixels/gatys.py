"""A picture in a style, by optimising its pixels (Gatys et al., arXiv 1508.06576): a picture comes out, no adapter.

The constants are neural-style's: content relu4_2 x 5, style relu1_1 to relu5_1 x 100, TV 1e-3, max pooling, L-BFGS.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor, nn

from impasto_fit import pictures as looked_at
from impasto_fit.budget import Budget
from impasto_fit.draws import Draws
from impasto_fit.errors import PictureError
from impasto_fit.loop import Session, Task
from impasto_fit.nets.vgg import Pooling, Reading, Vgg
from impasto_fit.pictures import Picture, digest, picture_of, unit
from impasto_fit.pixels.gram import Convention, Style, content, variation
from impasto_fit.progress import Progress
from impasto_fit.provenance import KEY, Provenance, digest_all, digest_of
from impasto_fit.recipe import Words

HISTORY = 100  # pairs that L-BFGS remembers, as neural-style's
PAPER_CONTENT, PAPER_STYLE = 1.0, 1e3  # the paper's ratio α/β = 1e-3, and its mean over five layers


@dataclass(frozen=True)
class Gatys:
    """`eyes` is a file of VGG's weights, `painted` the picture that gets the style. 1000 steps are its budget.

    `gram` names the convention (gram.py); `of_paper` has the weights that belong to the paper's.
    """

    eyes: Path
    painted: Picture = field(repr=False, compare=False)
    content: float = 5.0
    style: float = 100.0
    smooth: float = 1e-3
    content_layer: str = "relu4_2"
    style_layers: tuple[str, ...] = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
    gram: Convention = "elements"
    pooling: Pooling = "max"
    reading: Reading = "torchvision"
    start: Literal["content", "noise"] = "content"
    seed: int = 0

    @classmethod
    def of_paper(cls, eyes: Path, painted: Picture, reading: Reading = "torchvision", seed: int = 0) -> Gatys:
        """Average pooling, a start from noise, no TV."""
        return cls(
            eyes,
            painted,
            content=PAPER_CONTENT,
            style=PAPER_STYLE / 5,
            smooth=0.0,
            gram="paper",
            pooling="average",
            reading=reading,
            start="noise",
            seed=seed,
        )

    def fit(self, pictures: Sequence[Picture], words: Words, budget: Budget, progress: Progress) -> bytes:
        """A PNG as large as `painted`, with the provenance in its text. Several pictures are one style, their mean."""
        looked_at.check(pictures)
        try:
            looked_at.check([self.painted])
        except PictureError as error:
            raise PictureError(f"painted: {error}") from None
        vgg = Vgg.load(self.eyes, self.pooling, self.reading)
        source = Provenance.of(self, digest_all(digest_of(self.eyes), digest(self.painted)), pictures, words)
        session = Session(source.fit, self.seed, progress)
        lesson = Lesson.of(self, vgg, pictures)
        session.run("pixels", lesson.task(), budget)
        return png(picture_of(lesson.pixels.detach()[0]), source.header(session.state.step))


@dataclass(frozen=True)
class Lesson:
    """One picture in the making: `pixels` [1, 3, H, W]."""

    recipe: Gatys
    vgg: Vgg
    pixels: nn.Parameter
    style: Style
    content: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, recipe: Gatys, vgg: Vgg, pictures: Sequence[Picture]) -> Lesson:
        photo = unit(recipe.painted)
        style = Style.of([vgg(unit(one)) for one in pictures], dict.fromkeys(recipe.style_layers, 1.0), recipe.gram)
        begin = photo
        if recipe.start == "noise":
            begin = torch.rand(photo.shape, generator=Draws.of(recipe.seed, "start", -1).torch)
        pixels = nn.Parameter(begin.clone(memory_format=torch.contiguous_format))  # L-BFGS wants it so
        return cls(recipe, vgg, pixels, style, vgg(photo)[recipe.content_layer])

    def task(self) -> Task:
        """A step of L-BFGS is one evaluation; its memory lasts over steps."""
        optimiser = torch.optim.LBFGS([self.pixels], lr=1.0, max_iter=1, history_size=HISTORY, tolerance_grad=0.0)
        return Task({"pixels": self.pixels}, optimiser, self.loss, lambda: picture_of(self.pixels[0]))

    def loss(self, draws: Draws) -> Tensor:
        recipe, found = self.recipe, self.vgg(self.pixels)
        kept = content(found[recipe.content_layer], self.content, recipe.gram)
        total = recipe.content * kept + recipe.style * self.style.loss(found)
        return (total + recipe.smooth * variation(self.pixels)).sum()


def png(picture: Picture, texts: Mapping[str, str]) -> bytes:
    info, buffer = PngInfo(), io.BytesIO()
    info.add_itxt(KEY, texts[KEY])
    Image.fromarray(picture).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()

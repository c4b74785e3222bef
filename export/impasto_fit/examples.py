"""What a backbone is shown in training: codes of views of the pictures, and each one's prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from impasto_fit.backbone import Backbone
from impasto_fit.draws import Draws
from impasto_fit.errors import WordsError
from impasto_fit.pictures import Picture
from impasto_fit.recipe import Words
from impasto_fit.views import squared, views

SHIFT = 3 / 32  # of the side: how far a view may lie beside the picture


@dataclass(frozen=True)
class Seeing:
    """How pictures are looked at: `views` in all, enlarged by up to `zoom`, mirrored or not."""

    views: int = 48
    zoom: tuple[float, float] = (1.0, 1.3)
    mirrored: bool = True

    def __post_init__(self) -> None:
        if self.views < 1 or not 0.5 <= self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"seeing: got {self.views} views, zoom {self.zoom}; at least 1, and 0.5 or more, in order")


@dataclass(frozen=True)
class Examples:
    """`codes` of N views, and `prompts`, one for each."""

    codes: Tensor
    prompts: tuple[str, ...]

    @classmethod
    def of(
        cls, backbone: Backbone, pictures: Sequence[Picture], prompts: Sequence[str], seeing: Seeing, draws: Draws
    ) -> Examples:
        """Every picture is seen equally often, at least twice."""
        each, shift = max(2, seeing.views // len(pictures)), round(SHIFT * backbone.side)
        seen = [
            views(squared(picture, backbone.side), draws.numpy, each, seeing.zoom, shift, seeing.mirrored)
            for picture in pictures
        ]
        codes = backbone.codes([view for part in seen for view in part])
        return cls(codes, tuple(prompt for prompt in prompts for _ in range(each)))

    def draw(self, n: int, draws: Draws) -> Tensor:
        """int64 [n]: which ones."""
        return torch.randint(len(self.codes), (n,), generator=draws.torch)


def prompts_of(words: Words, count: int, prompt: str, bare: str) -> list[str]:
    """Each picture's: `prompt` with its context, or `bare` where there are no contexts; both say {style}.

    Raises:
        WordsError: a template says {style}, but the words have none, or the contexts are too few.
    """
    words.check(count)
    if "{style}" in prompt + bare and not words.style:
        raise WordsError('style: got none; give what prompts are to call it, such as "stained glass"')
    found = [prompt.replace("{context}", context) for context in words.contexts] or [bare] * count
    return [one.replace("{style}", words.style) for one in found]

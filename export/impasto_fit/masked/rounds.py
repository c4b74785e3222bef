"""StyleDrop's rounds with feedback (arXiv 2306.00983, section 3.3): sample from an adapter, pick, train on the picks.

Between two rounds nothing runs: a person may take a day to pick, and the next round is a fit of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from impasto_fit.errors import WordsError
from impasto_fit.masked.drop import Drop, masked_only, pair_of
from impasto_fit.masked.lanes import FINE, Guidance, paint
from impasto_fit.pictures import Picture, unit
from impasto_fit.recipe import Words


class Clip(Protocol):
    """Two towers, whose vectors have unit length."""

    def see(self, pictures: Tensor) -> Tensor:
        """[n, 3, H, W], RGB in 0..1, to [n, D]."""
        ...

    def hear(self, texts: Sequence[str]) -> Tensor:
        """[n, D]."""
        ...


@dataclass(frozen=True)
class Samples:
    """A round's pictures, each with its context."""

    pictures: tuple[Picture, ...]
    contexts: tuple[str, ...]

    def picked(self, which: Sequence[int], pictures: Sequence[Picture], words: Words) -> tuple[list[Picture], Words]:
        """What the next round is fitted to: the pictures that were given, and these samples.

        Raises:
            WordsError: no sample is picked, one is unknown, or the given pictures have no contexts.
        """
        unknown = sorted({i for i in which if not 0 <= i < len(self.pictures)})
        if unknown or not which:
            got = ", ".join(map(str, unknown)) or "none"
            raise WordsError(f"picks: got {got}; give numbers of samples, 0 to {len(self.pictures) - 1}")
        if len(words.contexts) != len(pictures):
            raise WordsError("contexts: the picks have theirs; give the pictures' as well, one for each")
        once = list(dict.fromkeys(which))
        contexts = (*words.contexts, *(self.contexts[i] for i in once))
        return [*pictures, *(self.pictures[i] for i in once)], Words(contexts, words.style)


def samples(
    recipe: Drop, data: bytes, contexts: Sequence[str], style: str, guidance: Guidance | None = None
) -> Samples:
    """Pictures of other contents in the style of the adapter `data`, which the recipe's fit gave."""
    backbone = masked_only(recipe.checkpoint, recipe.device)
    prompts = [recipe.prompt.replace("{context}", context).replace("{style}", style) for context in contexts]
    chosen = guidance or Guidance(recipe.style, recipe.text)
    return Samples(tuple(paint(backbone, pair_of(data), prompts, recipe.seed, chosen, FINE)), tuple(contexts))


@torch.no_grad()
def by_clip(clip: Clip, found: Samples, given: Sequence[Picture], count: int = 10) -> list[int]:
    """The `count` best: how well each agrees with its context, plus how much it is like the given pictures.

    Both are cosines; they are added in deviations, since pictures are more alike than pictures and words ever are.
    """
    rows = _seen(clip, found.pictures)
    text = (rows * clip.hear(found.contexts)).sum(1)
    style = (rows @ _seen(clip, given).T).mean(1)
    return highest(standing(text) + standing(style), count)


@torch.no_grad()
def _seen(clip: Clip, pictures: Sequence[Picture]) -> Tensor:
    """One by one: they may differ in size."""
    return torch.cat([clip.see(unit(picture)) for picture in pictures])


def standing(scores: Tensor) -> Tensor:
    """How many deviations above the mean each score [N] is; 0 where all are equal."""
    return (scores - scores.mean()) / scores.std().clamp(min=torch.finfo(scores.dtype).tiny)


def highest(scores: Tensor, count: int) -> list[int]:
    return [int(i) for i in scores.argsort(descending=True)[:count]]

"""What a recipe needs of a backbone, whatever its family: codes of pictures, texts, a loss, and pictures back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from impasto_fit.draws import Draws
from impasto_fit.pictures import Picture


@dataclass(frozen=True)
class Said:
    """What text encoders make of N prompts: states [N, L, D], and one vector for each [N, P] where the backbone reads
    one (else None)."""

    states: Tensor
    pooled: Tensor | None = None

    def rows(self, which: Tensor) -> Said:
        return Said(self.states[which], None if self.pooled is None else self.pooled[which])

    def __add__(self, other: Said) -> Said:
        """These prompts, then those."""
        if self.pooled is None or other.pooled is None:
            return Said(torch.cat([self.states, other.states]))
        return Said(torch.cat([self.states, other.states]), torch.cat([self.pooled, other.pooled]))

    def __len__(self) -> int:
        return len(self.states)


class Backbone(Protocol):
    """A frozen checkpoint. `graph` is what the module is called in adapters' files, `side` what it paints, in pixels;
    `digest` knows its weights."""

    @property
    def graph(self) -> str: ...

    @property
    def side(self) -> int: ...

    @property
    def digest(self) -> str: ...

    @property
    def module(self) -> nn.Module: ...

    def codes(self, pictures: Sequence[Picture]) -> Tensor:
        """Latents or tokens of pictures of `side` pixels, one row for each."""
        ...

    def said(self, prompts: Sequence[str]) -> Said: ...

    def loss(self, codes: Tensor, said: Said, draws: Draws) -> Tensor:
        """The mean loss [] of the family's own training, with a gradient to whatever is trained."""
        ...

    def paint(self, said: Said, seed: int) -> list[Picture]:
        """A picture of each text, guided as the family usually is."""
        ...

"""Gram matrices and the losses of Gatys, Johnson and CIN, whose conventions differ: each is named.

paper     G = F Fᵀ; a layer's loss is Σ (G - A)² / (4 N² M²), N channels, M places (arXiv 1508.06576, eq. 4)
elements  G = F Fᵀ / (N M); the mean of (G - A)² (jcjohnson's neural-style)
places    G = F Fᵀ / M; the mean of (G - A)² (CIN, arXiv 1610.07629, and lecture notes)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Convention = Literal["paper", "elements", "places"]


def gram(features: Tensor, convention: Convention) -> Tensor:
    """[n, N, h, w] to [n, N, N]. The paper's is divided by M already, so that two pictures may differ in size."""
    flat = features.flatten(2)
    whole = flat @ flat.transpose(1, 2)
    return whole / (flat.shape[1] * flat.shape[2] if convention == "elements" else flat.shape[2])


def apart(found: Tensor, wanted: Tensor, convention: Convention) -> Tensor:
    """[n]: a layer's style loss of two `gram`s."""
    squares = (found - wanted).square()
    if convention == "paper":
        return squares.sum((1, 2)) / (4 * found.shape[1] ** 2)
    return squares.mean((1, 2))


@dataclass(frozen=True)
class Style:
    """What each layer's Gram matrix is to be [1, N, N], and how much a layer weighs."""

    grams: Mapping[str, Tensor]
    convention: Convention
    weights: Mapping[str, float]

    @classmethod
    def of(cls, pictures: Sequence[Mapping[str, Tensor]], layers: Mapping[str, float], convention: Convention) -> Style:
        """The mean of several pictures' matrices, whose features these are."""
        grams = {layer: torch.stack([gram(one[layer], convention) for one in pictures]).mean(0) for layer in layers}
        return cls(grams, convention, layers)

    def loss(self, found: Mapping[str, Tensor]) -> Tensor:
        """[n]."""
        parts = [
            weight * apart(gram(found[layer], self.convention), self.grams[layer], self.convention)
            for layer, weight in self.weights.items()
        ]
        return torch.stack(parts).sum(0)


def content(found: Tensor, wanted: Tensor, convention: Convention) -> Tensor:
    """[n]: half the sum of squares in the paper (eq. 1), their mean elsewhere."""
    squares = (found - wanted).square()
    return squares.sum((1, 2, 3)) / 2 if convention == "paper" else squares.mean((1, 2, 3))


def variation(picture: Tensor) -> Tensor:
    """[n]: the sum of squared differences of neighbouring pixels, down and right, as neural-style's TV has it."""
    down = (picture[..., 1:, :] - picture[..., :-1, :]).square().sum((1, 2, 3))
    return down + (picture[..., 1:] - picture[..., :-1]).square().sum((1, 2, 3))

"""A net that takes any style as an embedding E (Ghiasi et al., arXiv 1705.06830), in torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto_export.errors import CheckpointError as Unreadable
from impasto_export.feedforward import link
from impasto_export.feedforward.found import Predictor
from impasto_export.feedforward.net import Net
from impasto_fit.errors import CheckpointError
from impasto_fit.text import trunk


@dataclass(frozen=True)
class Ghiasi:
    """`weight` [N, D] and `bias` [N] take an embedding to γ and β. `digest` is what files of its styles call it."""

    net: Net
    weights: trunk.Tensors
    weight: Tensor
    bias: Tensor
    predictor: Predictor | None
    digest: str

    @classmethod
    def opened(cls, place: Path) -> Ghiasi:
        """
        Raises:
            CheckpointError: it is no net whose styles are embeddings.
        """
        try:
            found = link.read(place)
        except Unreadable as error:
            raise CheckpointError(f"checkpoint: {error}") from None
        if found.expand is None:
            problem = f"{found.net.name} takes no embeddings"
            raise CheckpointError(f"checkpoint: {place}: {problem}; give a net with a predictor, like mini-stylizer")
        weight, bias = (torch.from_numpy(array.copy()) for array in (found.expand.weight, found.expand.bias))
        held = trunk.tensors(found.net)
        return cls(found.net, held, weight, bias, found.predictor, found.network or found.net.digest)

    @property
    def size(self) -> int:
        """D."""
        return int(self.weight.shape[1])

    def painted(self, photo: Tensor, embeddings: Tensor) -> Tensor:
        """[n, 3, H, W] of any size in 0..1, and embeddings [n, D], to [n, 3, H, W]."""
        height, width = photo.shape[2:]
        step = self.net.multiple_of
        padded = F.pad(photo, (0, -width % step, 0, -height % step), mode="reflect")
        style = embeddings @ self.weight.T + self.bias
        return trunk.painted(self.net, self.weights, padded, style)[..., :height, :width]

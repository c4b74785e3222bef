"""CLIPstyler's losses (arXiv 2112.00374): directions in CLIP's space, of whole pictures and of patches; smoothness.

Vectors are unit vectors [n, d]. Each loss has a naive twin in float64 in tests/unit/fit/text.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SLACK = 0.7  # τ: a patch that is nearer than this has learnt enough


def direction(towards: Tensor, start: Tensor) -> Tensor:
    """The unit vector from one to the other; Δ of Eq. 2."""
    return F.normalize(towards - start, dim=-1)


def directional(found: Tensor, start: Tensor, wanted: Tensor) -> Tensor:
    """[n]: 1 - cos of ΔI = found - start and the wanted direction ΔT [d] (Eq. 2)."""
    return 1 - (direction(found, start) * wanted).sum(-1)


def patches(found: Tensor, start: Tensor, wanted: Tensor, slack: float = SLACK) -> Tensor:
    """The mean over patches [n, d], those zeroed whose loss is at most τ (Eq. 3 and 4)."""
    losses = directional(found, start, wanted)
    return torch.where(losses <= slack, torch.zeros_like(losses), losses).mean()


def variation(pictures: Tensor) -> Tensor:
    """The sum of four L2 norms of a picture's differences, two of them diagonal; [n, 3, H, W] to the mean over n."""
    differences = (
        pictures[..., :, :-1] - pictures[..., :, 1:],
        pictures[..., :-1, :] - pictures[..., 1:, :],
        pictures[..., 1:, :-1] - pictures[..., :-1, 1:],
        pictures[..., :-1, :-1] - pictures[..., 1:, 1:],
    )
    norms = [part.flatten(1).norm(dim=1) for part in differences]
    return torch.stack(norms).sum(0).mean()

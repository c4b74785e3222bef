"""MaskGIT's decoding: in each step every unknown token is drawn, and the least confident are masked again."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

STEPS = 36
TEMPERATURE = 4.5  # of the noise that confidences get, not of a softmax


def gumbel(like: Tensor, noise: torch.Generator) -> Tensor:
    uniform = torch.rand(like.shape, generator=noise).clamp(1e-20, 1 - 1e-7)
    return -torch.log(-torch.log(uniform)).to(like.device)


def unmask(
    logits_of: Callable[[Tensor], Tensor],
    tokens: Tensor,
    mask: int,
    noise: torch.Generator,
    steps: int = STEPS,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """int64 [n, h, w] without masks; what wasn't masked stays. `logits_of` gives [n, codes, h, w]."""
    masked = (tokens == mask).flatten(1).sum(1, keepdim=True)
    for step in range(steps):
        unknown = tokens == mask
        chances = logits_of(tokens).float().log_softmax(1)
        drawn = (chances + gumbel(chances, noise)).argmax(1)
        found = torch.where(unknown, drawn, tokens)
        if step == steps - 1:
            break
        ratio = (step + 1) / steps
        confidence = chances.gather(1, found[:, None])[:, 0] + temperature * (1 - ratio) * gumbel(found, noise)
        order = confidence.masked_fill(~unknown, math.inf).flatten(1).argsort(1).argsort(1)
        again = (masked * math.cos(math.pi * ratio / 2)).floor().long()
        count = torch.minimum(again, unknown.flatten(1).sum(1, keepdim=True) - 1).clamp(min=1)
        tokens = found.masked_fill((order < count).view_as(tokens) & unknown, mask)
    return found

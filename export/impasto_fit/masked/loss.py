"""What masked models are trained by: tokens are hidden by MaskGIT's cosine schedule, and guessed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto_export.tracing.upscaler import MuseUpscaler


def hide(tokens: Tensor, mask: int, draws: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Tokens with cos(pi r / 2) of them masked, r uniform for each picture; and where, bool of the same shape.

    At least one token of each picture is masked, and those are the ones with the lowest of random numbers.
    """
    n, places = len(tokens), tokens[0].numel()
    ratio = torch.cos(torch.rand(n, 1, generator=draws) * torch.pi / 2)
    count = (ratio * places).ceil().clamp(1, places).long()
    order = torch.rand(n, places, generator=draws).argsort(1).argsort(1)
    hidden = (order < count).view_as(tokens).to(tokens.device)
    return tokens.masked_fill(hidden, mask), hidden


def cross_entropy(logits: Tensor, tokens: Tensor, hidden: Tensor) -> Tensor:
    """[] in nats, of the hidden tokens: logits [N, codes, h, w].

    Labels aren't smoothed: what is drawn at T = 1 would have the share of chance that the smoothing has put there.
    """
    return F.cross_entropy(logits.permute(0, 2, 3, 1)[hidden].float(), tokens[hidden])


def fine_loss(
    upscaler: MuseUpscaler,
    tokens: Tensor,
    low: Tensor,
    text: Tensor,
    share: float = 0.5,
    draws: torch.Generator | None = None,
) -> Tensor:
    """Cross entropy in nats of a `share` of the second stage's tokens [N, H, W] that were hidden."""
    shown, hidden = hide(tokens, upscaler.config.vocab_size - 1, draws)
    hidden &= (torch.rand(hidden.shape, generator=draws) < share).to(hidden.device)
    logits = upscaler.to_logits(upscaler.looks(shown, low, text)[hidden])
    return F.cross_entropy(logits.float(), tokens[hidden])

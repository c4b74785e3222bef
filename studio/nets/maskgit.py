"""MaskGIT's decoding in torch, guided by a row of coefficients over lanes (StyleDrop's Eq. 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AmusedPipeline
from torch import Tensor

from studio.nets.bottleneck import Bottleneck, attached
from studio.nets.muse import CONDITIONS, SIDE
from studio.nets.precision import half_precision
from studio.nets.tokenizer import tokenise
from studio.nets.vq import decode
from studio.painter import Bytes
from studio.pictures import to_images

STEPS = 36
TEMPERATURE = 4.5
STYLE_STRENGTH = 0.5  # the paper's are 2 and 5; they overdrive mini-muse, which is two hundred times smaller
TEXT_STRENGTH = 2.0
BATCH = 16


@dataclass(frozen=True)
class Lane:
    """One pass of the transformer: what its logits count, its prompts, and the adapter that is on it."""

    coefficient: float
    prompts: Sequence[str]
    adapter: Bottleneck | None = None


def guided(
    prompts: Sequence[str], adapter: Bottleneck, style: float = STYLE_STRENGTH, text: float = TEXT_STRENGTH
) -> list[Lane]:
    """Eq. 4: G'(t) + style (G'(t) - G(t)) + text (G(t) - G(n)), with an empty n."""
    return [Lane(1 + style, prompts, adapter), Lane(text - style, prompts), Lane(-text, [""] * len(prompts))]


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
    """int64 [n, h, w] without masks; what wasn't masked stays. `logits_of` gives [n, codes, h, w].

    In each step every unknown token is drawn, and those that were drawn with the least confidence are masked again.
    """
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


@torch.no_grad()
def lane_logits(pipe: AmusedPipeline, lanes: Sequence[Lane]) -> Callable[[Tensor], Tensor]:
    """What the lanes' weighed sum is for tokens [n, h, w]; lanes that count nothing aren't passed."""
    counted = [lane for lane in lanes if lane.coefficient]
    said = pipe.text_encoder(
        tokenise(pipe.tokenizer, [prompt for lane in counted for prompt in lane.prompts]), output_hidden_states=True
    )
    conditions = torch.tensor(CONDITIONS).float().expand(len(said.text_embeds), -1)

    def logits(tokens: Tensor) -> Tensor:
        n = len(tokens)
        with ExitStack() as adapters, half_precision(tokens.device.type):
            for i, lane in enumerate(counted):
                if lane.adapter:
                    adapters.enter_context(attached(pipe.transformer, lane.adapter, slice(i * n, (i + 1) * n)))
            rows = tokens.repeat(len(counted), 1, 1)
            answers = pipe.transformer(rows, said.hidden_states[-2], said.text_embeds, conditions)
        return torch.stack(
            [lane.coefficient * answer for lane, answer in zip(counted, answers.split(n), strict=True)]
        ).sum(0)

    return logits


@torch.no_grad()
def paint(pipe: AmusedPipeline, lanes: Sequence[Lane], seed: int, steps: int = STEPS) -> Bytes:
    """uint8 [N, 128, 128, 3] of the lanes' N prompts, the same for the same seed."""
    noise = torch.Generator().manual_seed(seed)
    mask = pipe.scheduler.config.mask_token_id
    parts = []
    for i in range(0, len(lanes[0].prompts), BATCH):
        part = [Lane(lane.coefficient, lane.prompts[i : i + BATCH], lane.adapter) for lane in lanes]
        empty = torch.full((len(part[0].prompts), SIDE // 8, SIDE // 8), mask)
        tokens = unmask(lane_logits(pipe, part), empty, mask, noise, steps)
        parts.append(to_images(2 * decode(pipe.vqvae, tokens) - 1))
    return np.concatenate(parts)

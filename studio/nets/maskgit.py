"""MaskGIT's decoding in torch, guided by a row of coefficients over lanes (StyleDrop's Eq. 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AmusedPipeline
from torch import Tensor

from impasto_fit.masked.bottleneck import Bottleneck, attached
from studio.nets.muse import CONDITIONS, SIDE
from impasto_fit.nets.precision import half_precision
from studio.nets.tokenizer import tokenise
from studio.nets.upscaler import Cascade
from studio.nets.vq import decode
from studio.painter import Bytes
from studio.pictures import to_images

STEPS = 36
FINE_STEPS = 12  # of the second stage
TEMPERATURE = 4.5
STYLE_STRENGTH = 0.5  # the paper's are 2 and 5; they overdrive mini-muse, which is two hundred times smaller
TEXT_STRENGTH = 2.0
FINE_STYLE_STRENGTH, FINE_TEXT_STRENGTH = 1.0, 0.0  # the paper's of the second stage
BATCH = 16
GUESSED, MOST_GUESSED = 0.7, 0.6  # pictures that have guesses, and the most of a picture's tokens that are


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


def guessed(pipe: AmusedPipeline, tokens: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
    """Tokens [n, 16, 16], in most pictures some of which the base has drawn, all at once, from the others and a text.

    What a second stage has to expect: the base's faults.
    """
    n, mask = len(tokens), pipe.scheduler.config.mask_token_id
    share = MOST_GUESSED * torch.rand(n, 1, 1) * (torch.rand(n, 1, 1) < GUESSED)
    unknown = torch.rand(tokens.shape) < share
    conditions = torch.tensor(CONDITIONS).float().expand(n, -1)
    logits = pipe.transformer(tokens.masked_fill(unknown, mask), text, pooled, conditions).float()
    noise = torch.rand_like(logits).clamp_(1e-20, 1 - 1e-7).log_().neg_().log_().neg_()
    return torch.where(unknown, (logits + noise).argmax(1), tokens)


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


def parts(lanes: Sequence[Lane], batch: int) -> Iterator[list[Lane]]:
    """The lanes of `batch` prompts at a time."""
    for i in range(0, len(lanes[0].prompts), batch):
        yield [Lane(lane.coefficient, lane.prompts[i : i + batch], lane.adapter) for lane in lanes]


def draw_base(pipe: AmusedPipeline, lanes: Sequence[Lane], noise: torch.Generator, steps: int = STEPS) -> Tensor:
    """int64 [n, 16, 16]."""
    mask = pipe.scheduler.config.mask_token_id
    empty = torch.full((len(lanes[0].prompts), SIDE // 8, SIDE // 8), mask)
    return unmask(lane_logits(pipe, lanes), empty, mask, noise, steps)


@torch.no_grad()
def paint(pipe: AmusedPipeline, lanes: Sequence[Lane], seed: int, steps: int = STEPS) -> Bytes:
    """uint8 [N, 128, 128, 3] of the lanes' N prompts, the same for the same seed."""
    noise = torch.Generator().manual_seed(seed)
    drawn = [draw_base(pipe, part, noise, steps) for part in parts(lanes, BATCH)]
    return np.concatenate([to_images(2 * decode(pipe.vqvae, tokens) - 1) for tokens in drawn])


@torch.no_grad()
def fine_logits(cascade: Cascade, lanes: Sequence[Lane], low: Tensor) -> Callable[[Tensor], Tensor]:
    """As `lane_logits`, of the second stage over the base's tokens `low` [n, 16, 16]."""
    counted = [lane for lane in lanes if lane.coefficient]
    prompts = [prompt for lane in counted for prompt in lane.prompts]
    said = cascade.base.text_encoder(tokenise(cascade.base.tokenizer, prompts), output_hidden_states=True)
    texts = said.hidden_states[-2].split(len(low))

    def logits(tokens: Tensor) -> Tensor:
        total = torch.zeros(())
        for lane, text in zip(counted, texts, strict=True):
            with ExitStack() as adapters, half_precision(tokens.device.type):
                if lane.adapter:
                    adapters.enter_context(attached(cascade.upscaler, lane.adapter))
                total = total + lane.coefficient * cascade.upscaler(tokens, low, text).float()
        return total

    return logits


@torch.no_grad()
def paint_fine(
    cascade: Cascade,
    base: Sequence[Lane],
    fine: Sequence[Lane],
    seed: int,
    steps: int = STEPS,
    fine_steps: int = FINE_STEPS,
) -> Bytes:
    """uint8 [N, 256, 256, 3] by both stages, each with lanes of its own, which say the same N prompts."""
    noise, mask = torch.Generator().manual_seed(seed), cascade.upscaler.config.vocab_size - 1
    painted = []
    for low_lanes, lanes in zip(parts(base, BATCH), parts(fine, BATCH), strict=True):
        low = draw_base(cascade.base, low_lanes, noise, steps)
        empty = torch.full((len(low), 2 * SIDE // 8, 2 * SIDE // 8), mask)
        tokens = unmask(fine_logits(cascade, lanes, low), empty, mask, noise, fine_steps)
        painted.append(to_images(2 * decode(cascade.vq, tokens) - 1))
    return np.concatenate(painted)

"""Pictures by StyleDrop's guidance (arXiv 2306.00983, eq. 4): lanes of the backbone, adapted or not, weighed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from impasto_fit.masked import backbone as masked
from impasto_fit.masked.backbone import Fine, Masked
from impasto_fit.masked.bottleneck import Bottleneck, attached
from impasto_fit.masked.decode import unmask
from impasto_fit.nets.precision import half_precision
from impasto_fit.pictures import Picture

BATCH = 16


@dataclass(frozen=True)
class Lane:
    """One pass of a transformer: what its logits count, its prompts, and the adapter that is on it."""

    coefficient: float
    prompts: Sequence[str]
    adapter: Bottleneck | None = None


@dataclass(frozen=True)
class Guidance:
    """Eq. 4's two scales, and how a picture is decoded; the paper's are the defaults of the first stage."""

    style: float = 2.0
    text: float = 5.0
    steps: int = 36
    temperature: float = 4.5

    def lanes(self, prompts: Sequence[str], adapter: Bottleneck) -> list[Lane]:
        """G'(t) + style (G'(t) - G(t)) + text (G(t) - G(n)), with an empty n."""
        return [
            Lane(1 + self.style, prompts, adapter),
            Lane(self.text - self.style, prompts),
            Lane(-self.text, [""] * len(prompts)),
        ]


FINE = Guidance(style=1.0, text=0.0, steps=12)  # table S3, of the second stage


@dataclass(frozen=True)
class Pair:
    """An adapter's halves; a model of one stage has no second."""

    base: Bottleneck
    fine: Bottleneck | None = None


def parts(prompts: Sequence[str], batch: int = BATCH) -> Iterator[Sequence[str]]:
    for i in range(0, len(prompts), batch):
        yield prompts[i : i + batch]


@torch.no_grad()
def base_logits(backbone: Masked, lanes: Sequence[Lane]) -> Callable[[Tensor], Tensor]:
    """What the lanes' weighed sum is for tokens [n, h, w]; lanes that count nothing aren't passed."""
    counted = [lane for lane in lanes if lane.coefficient]
    said = backbone.said([prompt for lane in counted for prompt in lane.prompts])

    def logits(tokens: Tensor) -> Tensor:
        n = len(tokens)
        with torch.no_grad(), ExitStack() as adapters, half_precision(tokens.device.type):
            for i, lane in enumerate(counted):
                if lane.adapter:
                    adapters.enter_context(attached(backbone.module, lane.adapter, slice(i * n, (i + 1) * n)))
            answers = backbone.logits(tokens.repeat(len(counted), 1, 1), said).float().split(n)
        return torch.stack([lane.coefficient * answer for lane, answer in zip(counted, answers, strict=True)]).sum(0)

    return logits


@torch.no_grad()
def fine_logits(backbone: Masked, fine: Fine, lanes: Sequence[Lane], low: Tensor) -> Callable[[Tensor], Tensor]:
    """The same of the second stage over the base's tokens `low` [n, h, w]."""
    counted = [lane for lane in lanes if lane.coefficient]
    texts = backbone.said([prompt for lane in counted for prompt in lane.prompts]).states.split(len(low))

    def logits(tokens: Tensor) -> Tensor:
        total = torch.zeros((), device=tokens.device)
        for lane, text in zip(counted, texts, strict=True):
            with torch.no_grad(), ExitStack() as adapters, half_precision(tokens.device.type):
                if lane.adapter:
                    adapters.enter_context(attached(fine.upscaler, lane.adapter))
                total = total + lane.coefficient * fine.upscaler(tokens, low, text).float()
        return total

    return logits


@torch.no_grad()
def paint(
    backbone: Masked,
    pair: Pair,
    prompts: Sequence[str],
    seed: int,
    guidance: Guidance = Guidance(),
    fine: Guidance = FINE,
) -> list[Picture]:
    """A picture of each prompt, by both stages where the pair has both halves; the same for the same seed."""
    noise, painted = torch.Generator().manual_seed(seed), []
    for part in parts(prompts):
        low = draw_base(backbone, guidance.lanes(part, pair.base), noise, guidance)
        if pair.fine is None or backbone.fine is None:
            painted += backbone.decode(low)
        else:
            lanes = fine.lanes(part, pair.fine)
            painted += masked.decode(backbone.fine.vq, draw_fine(backbone, backbone.fine, lanes, low, noise, fine))
    return painted


def draw_base(backbone: Masked, lanes: Sequence[Lane], noise: torch.Generator, guidance: Guidance) -> Tensor:
    """int64 [n, h, w]."""
    side = backbone.pipe.transformer.config.sample_size
    empty = torch.full((len(lanes[0].prompts), side, side), backbone.mask, device=backbone.device)
    logits = base_logits(backbone, lanes)
    return unmask(logits, empty, backbone.mask, noise, guidance.steps, guidance.temperature)


def draw_fine(
    backbone: Masked, fine: Fine, lanes: Sequence[Lane], low: Tensor, noise: torch.Generator, guidance: Guidance
) -> Tensor:
    scale = fine.upscaler.config.scale
    empty = torch.full((len(low), *(scale * side for side in low.shape[1:])), fine.mask, device=low.device)
    logits = fine_logits(backbone, fine, lanes, low)
    return unmask(logits, empty, fine.mask, noise, guidance.steps, guidance.temperature)

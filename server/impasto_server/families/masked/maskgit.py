"""MaskGIT's decoding of tokens (arXiv 2202.04200), as a generator (steps.py).

At each step every unknown token is drawn from the guided logits, and those with the least confidence are masked again.
Known tokens stay. The confidence has noise, which is annealed in one of two ways:

maskgit  τ(1 - r), r = (k + 1) / K: StyleDrop's (arXiv 2306.00983); the last mask has no noise.
amused   from τ at the first step to 0 at the last: diffusers' AmusedScheduler.

All random numbers come from one generator, equally many at each step, so the seed alone determines them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import floor
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from impasto_server.steps import Ask, Steps

Array = NDArray[np.float32]
Codes = NDArray[np.int64]
Anneal = Callable[[int, int], float]

BLOCK = 32
TOGETHER = 256  # places drawn at a time: with thousands of codes, as many as a core's cache holds


@dataclass(frozen=True)
class Canvas:
    """What decoding begins with: `tokens` int64 [h, w], `mask_id` where unknown.

    `behind` steps count as done already, so the masked share goes on falling from there.
    """

    tokens: Codes
    mask_id: int
    behind: int = 0


@dataclass(frozen=True)
class Masks:
    """How many tokens stay unknown after a step: ⌊N₀ · cos(πr / 2)⌋ of N₀, or ⌊N₀ · (1 - r)⌋."""

    schedule: Literal["cosine", "linear"] = "cosine"

    def ratio(self, done: int, steps: int) -> float:
        """The share of tokens that is unknown after `done` of `steps`.

        In float32, as in diffusers: where the exact count is whole, rounding decides between it and one less.
        """
        r = np.float32(done) / np.float32(steps)
        return float(np.cos(r * np.float32(np.pi) / np.float32(2)) if self.schedule == "cosine" else np.float32(1) - r)

    def count(self, total: int, unknown: int, done: int, steps: int) -> int:
        """How many tokens stay unknown: at least one, and fewer than before; 0 if none was unknown."""
        wanted = floor(np.float32(total) * np.float32(self.ratio(done, steps)))
        return max(1, min(unknown - 1, wanted)) if unknown else 0


def maskgit(step: int, steps: int) -> float:
    """1 - r after `step`, r = (step + 1) / steps."""
    return 1 - (step + 1) / steps


def amused(step: int, steps: int) -> float:
    """1 at the first step, 0 at the last."""
    return 1 - step / (steps - 1) if steps > 1 else 1.0


ANNEALS: dict[str, Anneal] = {"maskgit": maskgit, "amused": amused}


def decode(
    canvas: Canvas, steps: int, masks: Masks, anneal: Anneal, temperature: float, draws: np.random.Generator
) -> Steps:
    """Ask for logits [codes, h, w]; return tokens int64 [h, w]. `temperature` is τ, the scale of the noise.

    The timestep of an ask is the share of steps after this one, 0 to 1.
    """
    shape, tokens = canvas.tokens.shape, canvas.tokens.reshape(-1)
    total = tokens.size if canvas.behind else int((tokens == canvas.mask_id).sum())
    drawn = None
    for done in range(canvas.behind, steps):
        shown = None if drawn is None else drawn.reshape(shape)
        ask = Ask(tokens.reshape(shape), (steps - 1 - done) / steps, done - canvas.behind, steps - canvas.behind, shown)
        logits = yield ask
        unknown = tokens == canvas.mask_id
        drawn, certainty = draw(logits.reshape(len(logits), -1), tokens, unknown, draws.random(tokens.size))
        confidence = certainty + temperature * anneal(done, steps) * draws.gumbel(size=tokens.size)
        if done < steps - 1:
            again = masks.count(total, int(unknown.sum()), done + 1, steps)
            tokens = drawn.copy()
            tokens[np.argsort(np.where(unknown, confidence, np.inf), kind="stable")[:again]] = canvas.mask_id
    assert drawn is not None, "whoever starts a sampler has checked that there is a step to run"
    return drawn.reshape(shape)


def draw(
    logits: Array, tokens: Codes, unknown: NDArray[np.bool_], uniform: NDArray[np.float64]
) -> tuple[Codes, NDArray[np.float64]]:
    """Draw the `unknown` of `tokens` [places] from softmax(`logits` [codes, places]). Returns the tokens, and log p of
    those drawn.

    A drawn token is the first whose cumulative probability exceeds its `uniform` [places] number in [0, 1).
    """
    wanted = logits if unknown.all() else np.compress(unknown, logits, axis=1)
    drawn, certainty = tokens.copy(), np.zeros(tokens.size)
    for start in range(0, wanted.shape[1], TOGETHER):
        some, places = wanted[:, start : start + TOGETHER], np.flatnonzero(unknown)[start : start + TOGETHER]
        shifted = some - some.max(axis=0)
        found, total = _inverse(np.exp(shifted), uniform[places])
        drawn[places] = found
        certainty[places] = shifted[found, np.arange(len(found))] - np.log(total)
    return drawn, certainty


def _inverse(weights: Array, uniform: NDArray[np.float64]) -> tuple[Codes, NDArray[np.float64]]:
    """For each column of `weights` [codes, n] the first row whose cumulative weight exceeds `uniform` [n] of the total.

    It finds the block of rows, then the row in it: cumulative sums over all rows would take most of a step's time.
    """
    codes, n = weights.shape
    whole = weights if codes % BLOCK == 0 else np.pad(weights, ((0, -codes % BLOCK), (0, 0)))
    blocks = whole.reshape(len(whole) // BLOCK, BLOCK, n)
    sums = blocks.sum(axis=1)
    ends = np.cumsum(sums, axis=0, dtype=np.float64)
    target = uniform * ends[-1]
    block, column = np.minimum((ends <= target).sum(axis=0), len(blocks) - 1), np.arange(n)
    before = ends[block, column] - sums[block, column]
    inside = before[:, None] + np.cumsum(blocks[block, :, column], axis=1, dtype=np.float64)
    row = block * BLOCK + (inside <= target[:, None]).sum(axis=1)
    # Rounding may put the target at the end of the block, and for the last block that is the end of all rows.
    return np.minimum(row, codes - 1), ends[-1]


def masked(tokens: Codes, mask_id: int, ratio: float, draws: np.random.Generator) -> Codes:
    """`tokens`, each masked with the probability `ratio`, as in diffusers' AmusedScheduler.add_noise."""
    return np.where(draws.random(tokens.shape) < ratio, mask_id, tokens)

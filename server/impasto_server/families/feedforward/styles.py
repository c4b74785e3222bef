"""Styles with weights → the vector of a lane, faded where the style is weakened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from impasto_server.bundle import Bundle
from impasto_server.errors import InvalidArgument, SetupError
from impasto_server.request import Request
from impasto_server.strangers import Unfit, read_file

Array = NDArray[np.float32]

SLACK, NOTHING = 1e-3, 1e-6  # how far a sum of weights may exceed 1, and up to where a rest counts as 0


@dataclass(frozen=True)
class Style:
    """A lane's context: the `vector` [N] of its style; None for a net whose style is in its weights."""

    vector: Array | None = None


@dataclass(frozen=True)
class Shares:
    """The weights of a lane's styles, as (place in the request, weight), and the strength of the whole."""

    styles: tuple[tuple[int, float], ...]
    strength: float

    @property
    def whole(self) -> float:
        """The sum of the weights; 1 for a net without vectors."""
        return sum(weight for _, weight in self.styles) if self.styles else 1.0

    @property
    def rest(self) -> float:
        """The weight of what the style fades to."""
        left = 1 - self.strength * self.whole
        return left if left > NOTHING else 0.0

    def mixed(self, vectors: Sequence[Array | None], rest: Array | None) -> Array:
        """Σ s · w · v + r · v_rest in float32, in this order; a style of weight 0 may be None.

        Without v_rest it is the mix at full strength, Σ w · v / Σ w; the pixels are faded instead.
        """
        scale = 1 / self.whole if rest is None else self.strength
        parts = [(vectors[place], scale * weight) for place, weight in self.styles if weight]
        found = np.zeros_like(next(vector for vector, _ in parts if vector is not None))
        for vector, weight in (*parts, (rest, self.rest)):
            if vector is not None and weight:
                found += np.float32(weight) * vector
        return found


def shares_of(request: Request) -> tuple[Shares, ...]:
    """The shares of each lane: one lane, or one for each style if each has a mask.

    Raises InvalidArgument for unsuitable weights.
    """
    strength = request.content.strength
    adapters, pictures = request.styles.adapter_weights, request.own["STYLE_IMAGE_WEIGHTS"]
    weights = list(enumerate((*adapters, *pictures)))
    if not weights:
        return (Shares((), strength),)
    apart = len(request.own["MASKS"]) == len(weights) > 1
    lanes = [[one] for one in weights] if apart else [weights]
    for lane in lanes:
        _check(lane, "ADAPTER_WEIGHTS" if lane[0][0] < len(adapters) else "STYLE_IMAGE_WEIGHTS")
    return tuple(Shares(tuple(lane), strength) for lane in lanes)


def _check(lane: Sequence[tuple[int, float]], field: str) -> None:
    total = sum(weight for _, weight in lane)
    if not 0 < total <= 1 + SLACK:
        problem = f"the weights of the mixed styles have the sum {total:g}"
        raise InvalidArgument(field, problem, "pass weights with a sum above 0 and at most 1, or leave them out")


def vector_in(bundle: Bundle, file: str, name: str, numbers: int) -> Array:
    """The vector [numbers] called `name` in a bundle's file. Raises SetupError for anything else."""
    place = bundle.folder / file
    try:
        found = load(read_file(place, 8 * numbers + (1 << 20)))[name].astype(np.float32)
    except (OSError, Unfit, SafetensorError, KeyError) as error:
        raise SetupError(f"bundle: {place} can't be read ({error}); link the checkpoint again") from None
    if found.shape != (numbers,) or not np.isfinite(found).all():
        problem = f"holds {list(found.shape)}, but its net takes {numbers} finite numbers"
        raise SetupError(f"bundle: {place} {problem}; link the checkpoint again")
    return found

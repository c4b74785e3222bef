"""Styles with their weights → the vector of a lane, and what a weakened one fades to."""

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

SLACK, NOTHING = 1e-3, 1e-6  # of what weights come to in all, and of what is left of 1


@dataclass(frozen=True)
class Style:
    """A lane's context: the `vector` [N] that it's painted in, None of a net whose weights are its style."""

    vector: Array | None = None


@dataclass(frozen=True)
class Shares:
    """How much each style of a lane counts, by its place among the request's, and how strong all of it is."""

    styles: tuple[tuple[int, float], ...]
    strength: float

    @property
    def whole(self) -> float:
        """What the weights come to; the one style of a net without vectors is there whole."""
        return sum(weight for _, weight in self.styles) if self.styles else 1.0

    @property
    def rest(self) -> float:
        """How much what they fade to counts."""
        left = 1 - self.strength * self.whole
        return left if left > NOTHING else 0.0

    def mixed(self, vectors: Sequence[Array | None], rest: Array | None) -> Array:
        """Σ s · w · v + r · v_rest in float32, in this order; a style of weight 0 may be None.

        Where there is no v_rest, it is the mix at its whole strength, Σ w · v / Σ w: its pixels are weakened instead.
        """
        scale = 1 / self.whole if rest is None else self.strength
        parts = [(vectors[place], scale * weight) for place, weight in self.styles if weight]
        found = np.zeros_like(next(vector for vector, _ in parts if vector is not None))
        for vector, weight in (*parts, (rest, self.rest)):
            if vector is not None and weight:
                found += np.float32(weight) * vector
        return found


def shares_of(request: Request) -> tuple[Shares, ...]:
    """For each lane: one, or one for each style where each has a mask. Raises InvalidArgument for unfit weights.

    Without styles the one that the weights are is there whole.
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
        problem = f"the weights of what is mixed come to {total:g} in all"
        raise InvalidArgument(field, problem, "pass weights that come to more than 0 and at most 1, or leave them out")


def vector_in(bundle: Bundle, file: str, name: str, numbers: int) -> Array:
    """The vector [numbers] that a bundle's file has under a name. Raises SetupError for anything else."""
    place = bundle.folder / file
    try:
        found = load(read_file(place, 8 * numbers + (1 << 20)))[name].astype(np.float32)
    except (OSError, Unfit, SafetensorError, KeyError) as error:
        raise SetupError(f"bundle: {place} can't be read ({error}); link the checkpoint again") from None
    if found.shape != (numbers,) or not np.isfinite(found).all():
        problem = f"holds {list(found.shape)}, and its net takes {numbers} finite numbers"
        raise SetupError(f"bundle: {place} {problem}; link the checkpoint again")
    return found

"""Change a weight by an adapter of any form: W + ΔW, scaled to DoRA's norms where it has them.

Weights are [out, in] of a Linear or [out, in, kh, kw] of a convolution, biases [out]; all arithmetic is float32. The
parts, by role:

diff         a whole ΔW, of a weight or of a bias
lora, locon  A [in, r], B [r, out]; or down [r, in, …], up [out, r, …], and with Tucker's core mid [r, r, kh, kw]
loha         w1_a [out, r], w1_b [r, in·kh·kw], w2_a and w2_b alike; or with cores t1, t2 [r, r, kh, kw] w1_a [r, out],
             w1_b [r, in]
lokr         w1 [a, c] or w1_a [a, r], w1_b [r, c]; w2 [b, d, …] or w2_a, w2_b, t2 as LoHa's; out = a·b, in = c·d
dora         any of these, and magnitude: a norm for each output, [out, 1, …], or for each input, [1, in, …]
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from impasto_export.errors import AdapterError

Array = NDArray[np.float32]
Parts = Mapping[str, Array]
Shape = tuple[int, ...]
EPSILON = np.finfo(np.float32).eps


@dataclass(frozen=True)
class Change:
    """One adapter's change of one weight. Errors name the weight as `where`; `strength` multiplies ΔW alone.

    PEFT and diffusers do the same, also for DoRA: its norms hold at any strength. LyCORIS interpolates linearly from W
    to DoRA's result instead; at strength 1 both are the same.
    """

    where: str
    parts: Parts
    strength: float

    def applied(self, weight: Array, base: Array) -> Array:
        """`weight` with this change. `base` is the weight before the whole mix: DoRA takes its norms from that, as
        PEFT's merge and forward do. Raises AdapterError for parts that make no ΔW of its shape."""
        update = self._delta(weight.shape)
        update *= np.float32(self.strength)
        if "magnitude" not in self.parts:
            update += weight
            return update
        measured = base + update
        changed = measured if weight is base else weight + update
        changed *= self._factor(measured)
        return changed

    def _delta(self, shape: Shape) -> Array:
        try:
            return delta(self.parts, shape)
        except (KeyError, ValueError):
            raise self._misfit(shape) from None

    def _factor(self, updated: Array) -> Array:
        """The factor that brings each output's weights, or each input's, to their magnitude."""
        magnitude, (out, into, *rest) = self.parts["magnitude"], updated.shape
        measured = {(1, into, *(1 for _ in rest)): 1, (out, 1, *(1 for _ in rest)): 0}
        if magnitude.shape not in measured:
            raise self._misfit(updated.shape)
        axis = measured[magnitude.shape]
        others = tuple(index for index in range(updated.ndim) if index != axis)
        norms = np.sqrt(np.square(updated).sum(axis=others, keepdims=True))
        factor: Array = magnitude / np.maximum(norms, EPSILON)
        return factor

    def _misfit(self, shape: Shape) -> AdapterError:
        parts = ", ".join(f"{role} {list(part.shape)}" for role, part in sorted(self.parts.items()))
        problem = f"{parts} do not fit a weight of shape {list(shape)}"
        return AdapterError(f"{self.where}: {problem}; is the adapter for another backbone?")


def delta(parts: Parts, shape: Shape) -> Array:
    """ΔW before its scale, as a new array.

    Raises KeyError for a role that is missing, ValueError for parts that do not fit `shape`.
    """
    if "diff" in parts:
        return _shaped(parts["diff"].copy(), shape)
    if "A" in parts:
        return _shaped(parts["B"].T @ parts["A"].T, shape)
    if "down" in parts:
        return _shaped(_low_rank(parts), shape)
    if "w1_a" in parts and "w2_a" in parts and _hadamard(parts, shape):
        return _shaped(_factor(parts, 1), shape) * _shaped(_factor(parts, 2), shape)
    return _shaped(_kronecker(_factor(parts, 1), _factor(parts, 2), shape), shape)


def _shaped(update: Array, shape: Shape) -> Array:
    if update.shape[0] != shape[0]:
        raise ValueError(f"{update.shape[0]} outputs, not {shape[0]}")
    return update.reshape(shape)


def _low_rank(parts: Parts) -> Array:
    """up · down, where down has a convolution's taps; or with Tucker's core between them, which then has the taps."""
    down, up = _flat(parts["down"]), _flat(parts["up"])
    return _tucker(parts["mid"], up.T, down) if "mid" in parts else up @ down


def _hadamard(parts: Parts, shape: Shape) -> bool:
    """Whether these are LoHa's factors, each as large as the weight; LoKr's, with the same names, are smaller."""
    return "t1" in parts or parts["w1_a"].shape[0] * parts["w1_b"].shape[1] == math.prod(shape)


def _factor(parts: Parts, number: int) -> Array:
    whole, core = f"w{number}", f"t{number}"
    if whole in parts:
        return parts[whole]
    a, b = _flat(parts[f"{whole}_a"]), _flat(parts[f"{whole}_b"])
    return _tucker(parts[core], a, b) if core in parts else a @ b


def _kronecker(left: Array, right: Array, shape: Shape) -> Array:
    """left ⊗ right over outputs and inputs; only `right` has a convolution's taps."""
    (a, c), (out, into, *taps) = left.shape, shape
    right = right.reshape(out // a, into // c, *taps)
    product: Array = np.kron(left.reshape(a, c, *(1 for _ in taps)), right)
    return product


def _tucker(core: Array, out: Array, into: Array) -> Array:
    """Σpq core[p, q, …] · out[p, o] · into[q, i]: [o, i, …]."""
    rebuilt: Array = np.einsum("pq...,po,qi->oi...", core, out, into, optimize=True)
    return rebuilt


def _flat(factor: Array) -> Array:
    """A factor as a matrix; a convolution's taps join its inputs."""
    return factor.reshape(factor.shape[0], -1)

"""ΔW of every form against its paper's sum, written out in float64; and DoRA's norms along both axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from impasto_export.errors import AdapterError
from impasto_export.merging.deltas import Array, Change, delta

Array64 = NDArray[np.float64]
LINEAR, CONV, POINT = (6, 10), (6, 10, 3, 3), (6, 10, 1, 1)
RANK = 4
TOLERANCE = 1e-6


def draw(**shapes: tuple[int, ...]) -> dict[str, Array]:
    rng = np.random.default_rng(sum(map(len, shapes)))
    return {role: rng.standard_normal(shape).astype(np.float32) for role, shape in shapes.items()}


def exact(parts: dict[str, Array]) -> Any:
    """The parts in float64, by name."""
    return type("Parts", (), {role: part.astype(np.float64) for role, part in parts.items()})


def close(found: Array, expected: Array64) -> None:
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def core(t: Array64, out: Array64, into: Array64) -> Array64:
    """LyCORIS' Tucker core, as its docstring has it: Σij t[i, j, …] a[i, o] b[j, n]."""
    total = np.zeros((out.shape[1], into.shape[1], *t.shape[2:]))
    for i in range(t.shape[0]):
        for j in range(t.shape[1]):
            total += np.multiply.outer(np.outer(out[i], into[j]), t[i, j])
    return total


def kron(left: Array64, right: Array64) -> Array64:
    """Block (a, c) of the product is left[a, c] · right."""
    return np.concatenate([np.concatenate([cell * right for cell in row], axis=1) for row in left], axis=0)


def test_a_plain_lora_as_impasto_stores_it() -> None:
    parts = draw(A=(10, RANK), B=(RANK, 6))
    p = exact(parts)
    close(delta(parts, LINEAR), (p.A @ p.B).T)


@pytest.mark.parametrize("shape", [LINEAR, POINT])
def test_lora(shape: tuple[int, ...]) -> None:
    """A 1x1 convolution's may be stored as a Linear's, or with its taps."""
    for taps in ((), (1, 1)):
        parts = draw(down=(RANK, 10, *taps), up=(6, RANK, *taps))
        p = exact(parts)
        close(delta(parts, shape), (p.up.reshape(6, RANK) @ p.down.reshape(RANK, 10)).reshape(shape))


def test_locon_applies_down_before_up() -> None:
    parts = draw(down=(RANK, 10, 3, 3), up=(6, RANK, 1, 1))
    p = exact(parts)
    close(delta(parts, CONV), sum(np.multiply.outer(p.up[:, r, 0, 0], p.down[r]) for r in range(RANK)))


def test_locon_with_a_tucker_core() -> None:
    parts = draw(down=(RANK, 10, 1, 1), mid=(RANK, RANK, 3, 3), up=(6, RANK, 1, 1))
    p = exact(parts)
    close(delta(parts, CONV), core(p.mid, p.up[:, :, 0, 0].T, p.down[:, :, 0, 0]))


@pytest.mark.parametrize("shape", [LINEAR, CONV])
def test_loha(shape: tuple[int, ...]) -> None:
    columns = int(np.prod(shape[1:]))
    parts = draw(w1_a=(6, RANK), w1_b=(RANK, columns), w2_a=(6, RANK), w2_b=(RANK, columns))
    p = exact(parts)
    close(delta(parts, shape), ((p.w1_a @ p.w1_b) * (p.w2_a @ p.w2_b)).reshape(shape))


def test_loha_with_tucker_cores() -> None:
    taps = (RANK, RANK, 3, 3)
    parts = draw(t1=taps, w1_a=(RANK, 6), w1_b=(RANK, 10), t2=taps, w2_a=(RANK, 6), w2_b=(RANK, 10))
    p = exact(parts)
    close(delta(parts, CONV), core(p.t1, p.w1_a, p.w1_b) * core(p.t2, p.w2_a, p.w2_b))


FIRST = {"whole": {"w1": (2, 5)}, "product": {"w1_a": (2, RANK), "w1_b": (RANK, 5)}}


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("second", ["whole", "product", "core"])
@pytest.mark.parametrize("shape", [LINEAR, POINT, CONV])
def test_lokr(shape: tuple[int, ...], second: str, first: str) -> None:
    """6 = 2 · 3 outputs, 10 = 5 · 2 inputs; with both factors as products the roles are LoHa's."""
    taps = shape[2:]
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "whole": {"w2": (3, 2, *taps)},
        "product": {"w2_a": (3, RANK), "w2_b": (RANK, 2 * int(np.prod(taps)))},
        "core": {"t2": (RANK, RANK, *taps), "w2_a": (RANK, 3), "w2_b": (RANK, 2)},
    }
    parts = draw(**FIRST[first], **shapes[second])
    p = exact(parts)
    left = p.w1 if first == "whole" else p.w1_a @ p.w1_b
    if second == "core":
        right = core(p.t2, p.w2_a, p.w2_b)
    else:
        right = (p.w2 if second == "whole" else p.w2_a @ p.w2_b).reshape(3, 2, *taps)
    close(delta(parts, shape), kron(left, right))


@pytest.mark.parametrize("shape", [LINEAR, CONV])
@pytest.mark.parametrize("axis", ["out", "into"])
def test_dora_gives_every_output_or_every_input_its_norm(shape: tuple[int, ...], axis: str) -> None:
    ones, columns = [1] * (len(shape) - 2), shape[1:]
    sizes = {"out": (6, 1, *ones), "into": (1, 10, *ones)}
    parts = draw(down=(RANK, *columns), up=(6, RANK), magnitude=sizes[axis])
    (weight,) = draw(weight=shape).values()
    found = Change("x", parts, 0.5).applied(weight, weight).astype(np.float64)
    p = exact(parts)
    plain = weight + 0.5 * (p.up @ p.down.reshape(RANK, -1)).reshape(shape)
    rows = (found, plain) if axis != "into" else (found.swapaxes(0, 1), plain.swapaxes(0, 1))
    for row, before, norm in zip(*rows, p.magnitude.ravel(), strict=True):
        close(row.astype(np.float32), before / np.sqrt((before**2).sum()) * norm)


def test_dora_measures_the_weight_that_no_adapter_has_changed_yet() -> None:
    """As PEFT's: the factor is of the base and its own update, and multiplies all that was merged before."""
    parts = draw(down=(RANK, 10), up=(6, RANK), magnitude=(6, 1))
    base, before = draw(base=LINEAR, before=LINEAR).values()
    alone = Change("x", parts, 1.0).applied(base, base)
    factor = alone / (base + delta(parts, LINEAR))
    close(Change("x", parts, 1.0).applied(base + before, base), (alone + before * factor).astype(np.float64))


def test_strength_multiplies_the_update() -> None:
    parts = draw(A=(10, RANK), B=(RANK, 6))
    (weight,) = draw(weight=LINEAR).values()
    once, twice = (Change("x", parts, strength).applied(weight, weight) for strength in (-0.5, -1.0))
    close(twice - weight, 2 * (once - weight).astype(np.float64))


@pytest.mark.parametrize(
    "shapes",
    [
        {"A": (10, RANK), "B": (RANK, 7)},
        {"down": (RANK, 6), "up": (10, RANK)},  # of the transposed layer: as many numbers
        {"down": (RANK, 10), "up": (6, RANK + 1)},
        {"down": (RANK, 10)},
        {"w1": (2, 5), "w2": (3, 3)},
        {"w1": (2, 5)},
        {"w1_a": (6, RANK), "w1_b": (RANK, 10), "w2_a": (6, RANK), "w2_b": (RANK, 9)},
        {"down": (RANK, 10), "up": (6, RANK), "magnitude": (10, 1)},
    ],
)
def test_parts_that_do_not_fit_are_named_with_their_shapes(shapes: dict[str, tuple[int, ...]]) -> None:
    (weight,) = draw(weight=LINEAR).values()
    with pytest.raises(AdapterError, match=r"unet\.x: .*\[.*do not fit a weight of shape \[6, 10\]"):
        Change("unet.x", draw(**shapes), 1.0).applied(weight, weight)

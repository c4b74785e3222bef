"""Tell the form of a layer's tensors by their roles and shapes: LoRA, LoHa or LoKr, each of which may be DoRA.

lora  down [r, in, kh, kw], up [out, r, 1, 1]; with Tucker's core mid [r, r, kh, kw] the core has the taps instead
loha  w1_a [out, r], w1_b [r, in·kh·kw], w2_a, w2_b alike; with cores t1, t2 [r, r, kh, kw]: w1_a [r, out], w1_b [r, in]
lokr  w1 [a, c] or w1_a [a, r], w1_b [r, c]; w2 [b, d, kh, kw] or w2_a, w2_b, t2 as LoHa's; out = a·b, in = c·d
dora  any of these, and magnitude [out] or [1, out, 1, 1], or dora_scale [out, 1, 1, 1] or [1, in, 1, 1]

A Linear's tensors have no taps, but may be saved in the shapes of a 1x1 convolution, and the other way round.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod
from typing import Literal

from impasto_export.adapters.layers import Layer, Shape
from impasto_export.adapters.layouts import ALPHA, DORA_SCALE, DOWN, LOHA, LOKR, MAGNITUDE, MID, UP

Kind = Literal["lora", "loha", "lokr"]
# Forms that banks cannot hold, so that only merging can use them; "lora" is one of layers without a bank.
Form = Literal["lora", "locon", "dora", "loha", "lokr", "diff"]
Shapes = Mapping[str, Shape]
NAMES: Mapping[Form, str] = {
    "lora": "LoRA",
    "locon": "LoCon",
    "dora": "DoRA",
    "loha": "LoHa",
    "lokr": "LoKr",
    "diff": "whole weights",
}
WHY: Mapping[Form, str] = {
    "lora": "it changes layers that take no hot adapters (LoRA)",
    "locon": "it changes convolutions (LoCon)",
    "dora": "it brings weights to norms of its own (DoRA)",
    "loha": "its changes are products of two low-rank matrices (LoHa)",
    "lokr": "its changes are Kronecker products (LoKr)",
    "diff": "it changes whole weights",
}


def _roles(prefix: str, *parts: str) -> frozenset[str]:
    return frozenset(f"{prefix}{part}" for part in parts)


NORMS = frozenset({MAGNITUDE, DORA_SCALE})
LOHA_FACTORS = _roles(LOHA, "w1_a", "w1_b", "w2_a", "w2_b")
# LoKr's factors: each whole or a product of two, the second with or without a core.
FIRSTS = (_roles(LOKR, "w1"), _roles(LOKR, "w1_a", "w1_b"))
SECONDS = (_roles(LOKR, "w2"), _roles(LOKR, "w2_a", "w2_b"), _roles(LOKR, "w2_a", "w2_b", "t2"))
# Roles whose columns make up a layer's inputs (for LoKr, those of both factors).
COLUMNS = (DOWN, f"{LOHA}w1_b", f"{LOKR}w1", f"{LOKR}w1_b", f"{LOKR}w2", f"{LOKR}w2_b")
COMPLETE: Mapping[frozenset[str], Kind] = {
    frozenset({DOWN, UP}): "lora",
    frozenset({DOWN, UP, MID}): "lora",
    LOHA_FACTORS: "loha",
    LOHA_FACTORS | _roles(LOHA, "t1", "t2"): "loha",
    **{first | second: "lokr" for first in FIRSTS for second in SECONDS},
}


def kind(roles: Collection[str]) -> Kind | None:
    """The kind that these roles make; None when they are incomplete."""
    return COMPLETE.get(frozenset(roles) - NORMS - {ALPHA}) if not NORMS.issubset(roles) else None


def merged_only(roles: Collection[str], layer: Layer) -> set[Form]:
    """The forms that no bank can hold; empty for a LoRA of a layer that has a bank."""
    found: set[Form] = {"dora"} if NORMS.intersection(roles) else set()
    match kind(roles):
        case "loha" | "lokr" as other:
            found.add(other)
        case _ if MID in roles or (not layer.hot and len(layer.shape) > 2):
            found.add("locon")
        case _ if not layer.hot:
            found.add("lora")
    return found


def merging(found: Collection[Form]) -> str:
    """A sentence that says why only merging can use an adapter of these forms."""
    return f"only `impasto export merge` can use it: {', '.join(WHY[form] for form in sorted(found))}"


def rank(shapes: Shapes) -> int | None:
    """The rank, by which alpha is divided; None for a LoKr of two whole factors, which has none."""
    inner = next((role for role in (DOWN, f"{LOHA}w1_b", f"{LOKR}w1_b", f"{LOKR}w2_b") if role in shapes), None)
    return shapes[inner][0] if inner and shapes[inner] else None


def inputs(shapes: Shapes) -> int | None:
    """The input features of a Linear with such tensors, if they tell."""
    columns = [shapes[role][1] for role in COLUMNS if len(shapes.get(role, ())) > 1]
    return prod(columns) if columns else None


def fit(shapes: Shapes, weight: Shape) -> bool:
    """Whether tensors of these shapes, complete as a kind, fit a weight [out, in] or [out, in, kh, kw]."""
    if not all(shapes[role] for role in shapes.keys() - {ALPHA}):
        return False
    if NORMS & shapes.keys() and norms(shapes, weight) is None:
        return False
    match kind(shapes):
        case "lora":
            return _low_rank(shapes, weight)
        case "loha":
            sizes = [_product(shapes, f"{LOHA}w{number}", f"{LOHA}t{number}", weight[2:]) for number in (1, 2)]
            return sizes == [(weight[0], prod(weight[1:]))] * 2
        case _:
            return _kronecker(shapes, weight)


def _low_rank(shapes: Shapes, weight: Shape) -> bool:
    down, up, (out, into, *taps) = trimmed(shapes[DOWN]), trimmed(shapes[UP]), weight
    if up != (out, down[0]):
        return False
    if MID in shapes:
        return down == (down[0], into) and shapes[MID] == (down[0], down[0], *taps)
    return down == (down[0], *trimmed(weight)[1:])


def _kronecker(shapes: Shapes, weight: Shape) -> bool:
    first = _product(shapes, f"{LOKR}w1", "", ())
    second = _product(shapes, f"{LOKR}w2", f"{LOKR}t2", weight[2:])
    if not first or not second or not prod(first) or weight[1] % first[1]:
        return False
    return (first[0] * second[0], first[1] * second[1]) == (weight[0], prod(weight[1:]))


def _product(shapes: Shapes, name: str, core: str, taps: Shape) -> Shape | None:
    """Rows and columns of a factor, whole or a product of two, taps counted as columns; None where the two don't
    fit."""
    if name in shapes:
        whole = shapes[name]
        return whole[0], prod(whole[1:])
    a, b = shapes[f"{name}_a"], shapes[f"{name}_b"]
    if len(a) != 2 or len(b) != 2:
        return None
    if core in shapes:
        return (a[1], b[1] * prod(taps)) if shapes[core] == (a[0], b[0], *taps) else None
    return (a[0], b[1]) if a[1] == b[0] else None


def norms(shapes: Shapes, weight: Shape) -> Shape | None:
    """The shape of DoRA's norms with as many axes as the weight: [out, 1, …] or [1, in, …]; None where neither fits."""
    (out, into), rest = weight[:2], (1,) * len(weight[2:])
    if MAGNITUDE in shapes:
        return (out, 1, *rest) if prod(shapes[MAGNITUDE]) == out else None
    sizes = {(out,): (out, 1, *rest), (out, 1): (out, 1, *rest), (1, into): (1, into, *rest)}
    return sizes.get(trimmed(shapes.get(DORA_SCALE, ())))


def trimmed(shape: Shape) -> Shape:
    """The shape without the trailing ones of a 1x1 convolution's weight, after [out, in]."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape

"""Make LoRA files and their variants with the documented keys of kohya's trainers and LyCORIS, for any model's layers.

A form makes a layer's tensors from its weight's shape, by key endings; `kohya` makes the whole keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

Array = NDArray[Any]
Shape = tuple[int, ...]
Form = Callable[[Shape, int, np.random.Generator], dict[str, Array]]
# kohya's prefixes of components; SDXL's two text encoders are numbered.
SD1 = {"unet": "lora_unet", "text_encoder": "lora_te"}
SDXL = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}


def kohya(
    layers: Mapping[str, Mapping[str, Shape]],
    form: Form,
    rank: int = 4,
    alpha: float | None = 2.0,
    seed: int = 0,
    names: Mapping[str, str] = SD1,
    spelled: Callable[[str], str] = str,
) -> dict[str, Array]:
    """The tensors of all `layers` (graph -> module -> shape of its weight); `spelled` renames a UNet's modules.

    With `alpha` None, it is left out.
    """
    draw = np.random.default_rng(seed)
    tensors: dict[str, Array] = {}
    for graph, modules in layers.items():
        for module, shape in modules.items():
            path = spelled(module) if graph == "unet" else module
            name = f"{names[graph]}_{path.replace('.', '_')}"
            tensors |= {f"{name}.{ending}": part for ending, part in form(shape, rank, draw).items()}
            if alpha is not None:
                tensors[f"{name}.alpha"] = np.array(alpha, np.float32)
    return tensors


def write(
    path: Path, tensors: Mapping[str, Array], dtype: type[np.floating[Any]] = np.float32, **metadata: str
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: np.ascontiguousarray(part, dtype) for key, part in tensors.items()}, path, metadata)
    return path


def lora(shape: Shape, rank: int, draw: np.random.Generator) -> dict[str, Array]:
    """A LoRA of a Linear, or of a convolution (LoCon), whose taps are in the down's rows."""
    out, into, *taps = shape
    ones = [1] * len(taps)
    return {"lora_down.weight": _noise(draw, rank, into, *taps), "lora_up.weight": _noise(draw, out, rank, *ones)}


def tucker(shape: Shape, rank: int, draw: np.random.Generator) -> dict[str, Array]:
    """LoCon with a core; for a Linear or a 1x1 convolution a plain LoRA, as in LyCORIS."""
    out, into, *taps = shape
    if prod(taps) == 1:
        return lora(shape, rank, draw)
    parts = lora((out, into, *(1 for _ in taps)), rank, draw)
    return {**parts, "lora_mid.weight": _noise(draw, rank, rank, *taps)}


def dora(shape: Shape, rank: int, draw: np.random.Generator) -> dict[str, Array]:
    """DoRA with a norm for each output."""
    return {**lora(shape, rank, draw), "dora_scale": _norms(draw, shape[0], *(1 for _ in shape[1:]))}


def dora_of_inputs(shape: Shape, rank: int, draw: np.random.Generator) -> dict[str, Array]:
    """DoRA with a norm for each input, as in early LyCORIS."""
    return {**lora(shape, rank, draw), "dora_scale": _norms(draw, 1, shape[1], *(1 for _ in shape[2:]))}


def loha(shape: Shape, rank: int, draw: np.random.Generator) -> dict[str, Array]:
    a, b = (shape[0], rank), (rank, prod(shape[1:]))
    return {f"hada_w{number}_{part}": _noise(draw, *size) for number in (1, 2) for part, size in (("a", a), ("b", b))}


def loha_tucker(shape: Shape, rank: int, draw: np.random.Generator) -> dict[str, Array]:
    """LoHa, with cores if the layer is a convolution with taps."""
    out, into, *taps = shape
    if prod(taps) == 1:
        return loha(shape, rank, draw)
    sizes = {"t{}": (rank, rank, *taps), "w{}_a": (rank, out), "w{}_b": (rank, into)}
    return {f"hada_{name.format(number)}": _noise(draw, *size) for number in (1, 2) for name, size in sizes.items()}


def lokr(shape: Shape, rank: int, draw: np.random.Generator) -> dict[str, Array]:
    """LoKr whose first factor is whole, and the second a product."""
    (a, b), (c, d) = _halves(shape[0]), _halves(shape[1])
    second = {"lokr_w2_a": _noise(draw, b, rank), "lokr_w2_b": _noise(draw, rank, d * prod(shape[2:]))}
    return {"lokr_w1": _noise(draw, a, c), **second}


def lokr_products(shape: Shape, rank: int, draw: np.random.Generator) -> dict[str, Array]:
    """LoKr whose factors are both products."""
    parts = lokr(shape, rank, draw)
    a, c = parts.pop("lokr_w1").shape
    return {"lokr_w1_a": _noise(draw, a, rank), "lokr_w1_b": _noise(draw, rank, c), **parts}


def lokr_whole(shape: Shape, rank: int, draw: np.random.Generator) -> dict[str, Array]:
    """LoKr whose factors are both whole: it has no rank, and its alpha has no effect."""
    (a, b), (c, d) = _halves(shape[0]), _halves(shape[1])
    return {"lokr_w1": _noise(draw, a, c), "lokr_w2": _noise(draw, b, d, *shape[2:])}


def lokr_tucker(shape: Shape, rank: int, draw: np.random.Generator) -> dict[str, Array]:
    """LoKr whose second factor has a core, if the layer is a convolution with taps."""
    (a, b), (c, d), taps = _halves(shape[0]), _halves(shape[1]), shape[2:]
    if prod(taps) == 1:
        return lokr(shape, rank, draw)
    second = {"lokr_w2_a": (rank, b), "lokr_w2_b": (rank, d), "lokr_t2": (rank, rank, *taps)}
    return {"lokr_w1": _noise(draw, a, c), **{name: _noise(draw, *size) for name, size in second.items()}}


FORMS: Mapping[str, tuple[Form, ...]] = {
    "locon": (lora, tucker),
    "dora": (dora, dora_of_inputs),
    "loha": (loha, loha_tucker),
    "lokr": (lokr, lokr_products, lokr_whole, lokr_tucker),
}


def _noise(draw: np.random.Generator, *shape: int) -> Array:
    return (0.3 * draw.standard_normal(shape)).astype(np.float32)


def _norms(draw: np.random.Generator, *shape: int) -> Array:
    return draw.uniform(0.5, 1.5, shape).astype(np.float32)


def _halves(size: int) -> tuple[int, int]:
    """Two factors of a size, the smaller first and as large as possible: LyCORIS's factorisation."""
    small = next(number for number in range(int(size**0.5), 0, -1) if size % number == 0)
    return small, size // small

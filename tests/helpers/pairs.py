"""Write adapters in pairs: a random half for each stage of a masked cascade."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from impasto_export.weights import encode

Array = NDArray[np.float32]
Gelu = Literal["exact", "tanh"]
Halves = Mapping[str, tuple[Array, Array]]  # by module

# StyleDrop's places: after cross-attention and the MLP; in the small picture's layers after self-attention and the MLP.
ADAPTED = re.compile(r"transformer_layers\.\d+\.(attn2|ff)|low_layers\.\d+\.(attn1|ff)|layers\.\d+\.(attn2|ff)")


def bottleneck(
    path: Path, widths: Mapping[str, int], rank: int = 3, gelu: Gelu = "exact", seed: int = 0, **entry: Any
) -> Halves:
    """Write the studio's adapter for modules of these widths; returns down [D, rank] and up [rank, D] of each."""
    draw = np.random.default_rng(seed)
    made = {
        module: (_drawn(draw, width**-0.5, width, rank), _drawn(draw, 0.3, rank, width))
        for module, width in widths.items()
    }
    tensors = {
        f"{name}.{role}": half for name, both in made.items() for role, half in zip(("down", "up"), both, strict=True)
    }
    said = {"gelu": gelu, "shared": False, "sites": _places(made), **entry}
    _write(path, tensors, bottleneck=json.dumps(said))
    return made


def lora(path: Path, sizes: Mapping[str, tuple[int, int]], rank: int = 3, prefix: str = "", seed: int = 0) -> Halves:
    """Write a LoRA for modules of these (in, out) sizes; returns down [rank, in] and up [out, rank] of each."""
    made = factors(sizes, rank, seed)
    _write(path, named(made, prefix))
    return made


def factors(sizes: Mapping[str, tuple[int, int]], rank: int, seed: int) -> Halves:
    draw = np.random.default_rng(seed)
    return {
        module: (_drawn(draw, into**-0.5, rank, into), _drawn(draw, 0.3, out, rank))
        for module, (into, out) in sizes.items()
    }


def named(made: Halves, prefix: str = "") -> dict[str, Array]:
    """A LoRA's tensors under PEFT's names."""
    roles = ("lora_A.weight", "lora_B.weight")
    return {
        f"{prefix}{name}.{role}": half for name, both in made.items() for role, half in zip(roles, both, strict=True)
    }


def write(path: Path, tensors: Mapping[str, Array]) -> Path:
    _write(path, tensors)
    return path


def _places(modules: Iterable[str]) -> dict[str, list[str]]:
    """Place -> its modules: those of one stack with the same last name."""
    places: dict[str, list[str]] = {}
    for module in modules:
        stack, place = module.partition(".")[0], module.rpartition(".")[2]
        places.setdefault(f"{stack}.{place}", []).append(module)
    return places


def _drawn(draw: np.random.Generator, size: float, *shape: int) -> Array:
    return (size * draw.standard_normal(shape)).astype(np.float32)


def _write(path: Path, tensors: Mapping[str, Array], **metadata: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode({name: ("F32", array) for name, array in tensors.items()}, metadata))

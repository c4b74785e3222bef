"""Sizes that stay open in graphs, and those that torch traces them with: all different and none 1, or torch would take
one dim for another or for a constant."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from impasto_export.architecture import Port

LANES = Dim("lanes", min=1, max=512)
ROWS, COLUMNS = Dim("rows", min=1, max=512), Dim("columns", min=1, max=512)
TOKENS = Dim("tokens", min=1, max=512)
EXAMPLE_LANES, EXAMPLE_ROWS, EXAMPLE_COLUMNS, EXAMPLE_TOKENS = 2, 4, 6, 7

# By the names that ports have for them: rows of a form's banks, and how many of them a lane picks (tracing/forms.py).
_ADAPTERS = {"R": 5, "lora_K": 8, "H": 9, "bottleneck_K": 10}
OPEN = {"lanes": LANES, **{name: Dim(name, min=1, max=4096) for name in _ADAPTERS}}
_EXAMPLES = {"lanes": EXAMPLE_LANES, **_ADAPTERS}


def example(port: Port) -> Tensor:
    """Zeros of the port's shape and dtype."""
    shape = [_EXAMPLES[size] if isinstance(size, str) else size for size in port.shape]
    return torch.zeros(shape, dtype=getattr(torch, port.dtype))


def dynamic(port: Port) -> dict[int, Any]:
    """Its axes that stay open."""
    return {axis: OPEN[size] for axis, size in enumerate(port.shape) if isinstance(size, str)}

"""Dynamic sizes of graphs, and the example sizes that torch traces them with. The examples all differ and none is 1, or
torch would take one size for another, or for a constant."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from impasto_export.architecture import Port

LANES = Dim("lanes", min=1, max=512)
ROWS, COLUMNS = Dim("rows", min=1, max=512), Dim("columns", min=1, max=512)
TOKENS = Dim("tokens", min=1, max=512)
EXAMPLE_LANES, EXAMPLE_ROWS, EXAMPLE_COLUMNS, EXAMPLE_TOKENS = 2, 4, 6, 7


def example(port: Port, sizes: Mapping[str, int]) -> Tensor:
    """Zeros of the port's dtype and shape; `sizes` gives the named dimensions."""
    shape = [sizes[size] if isinstance(size, str) else size for size in port.shape]
    return torch.zeros(shape, dtype=getattr(torch, port.dtype))


def dynamic(port: Port) -> dict[int, Any]:
    """The port's dynamic axes."""
    return {axis: _named(size) for axis, size in enumerate(port.shape) if isinstance(size, str)}


@cache
def _named(size: str) -> Any:
    return LANES if size == "lanes" else Dim(size, min=1, max=4096)

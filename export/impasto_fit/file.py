"""A safetensors file as bytes: equal tensors and headers give equal bytes, which safetensors' own writer doesn't."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from impasto_export.weights import encode

NAMES = {torch.float32: "F32", torch.float16: "F16"}


def dump(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bytes:
    """Of float32 and float16 tensors, names and header in order."""
    arrays = {
        name: (NAMES[tensor.dtype], tensor.detach().cpu().contiguous().numpy()) for name, tensor in tensors.items()
    }
    return encode(arrays, {"format": "pt", **header})

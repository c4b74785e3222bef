"""In what numbers networks compute."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def half_precision(device: str) -> AbstractContextManager[object]:
    """bfloat16 for matrices and convolutions where the processor multiplies in it; float32 elsewhere."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind != "cpu" or torch.cpu._is_avx512_bf16_supported())

"""What this machine's arithmetic can do: torch's product of square matrices, on all cores."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from time import perf_counter

import torch

SIZES = (1024, 2048, 3072)  # of square matrices; the best one counts
PRODUCTS = 7

DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


def peaks_gflops() -> dict[str, float]:
    """By precision the best median rate of a product of square matrices, in 1e9 operations per second."""
    return {name: max(_product_gflops(size, dtype) for size in SIZES) for name, dtype in DTYPES.items()}


def _product_gflops(size: int, dtype: torch.dtype) -> float:
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    spent = []
    for _ in range(PRODUCTS):
        started = perf_counter()
        torch.matmul(a, b)
        spent.append(perf_counter() - started)
    return 2 * size**3 / median(spent[1:]) / 1e9


def against_peak(gflop: float, samples_ms: Sequence[float], peak: float) -> dict[str, float]:
    """A pass's operations, time and rate, and the rate's share of the peak."""
    ms = median(samples_ms)
    rate = gflop / ms * 1000
    return {"gflop": gflop, "ms": ms, "gflops": rate, "share_of_peak": rate / peak}

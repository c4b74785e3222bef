"""How near the machine's arithmetic a forward pass comes: operations counted by torch, the peak measured by it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from impasto_export.tracing import recipes, sites

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


def plain_gflop(unet: Any, lanes: int, tokens: int) -> float:
    """Of a pass of `unet`, which is on the meta device, without adapters: a multiplication and an addition are two."""
    sample, timestep, context = _inputs(unet, lanes, tokens)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(sample, timestep, context, return_dict=False)
    return float(counter.get_total_flops()) / 1e9


def adapted_gflop(unet: Any, lanes: int, tokens: int, rank: int) -> float:
    """The same as it is exported, every lane with `rank` rows of the banks. Leaves the banks' hooks on `unet`."""
    found = sites.find(unet, "unet")
    rows = torch.zeros(lanes, rank, dtype=torch.long, device="meta")
    tables = [torch.empty(rank, *map(int, port.shape[1:]), device="meta") for port in sites.banks(found)]
    adapters = [rows, torch.empty(lanes, rank, device="meta"), *tables]
    unsteered = [torch.zeros(lanes, width, 1, 1, device="meta") for width in recipes.residual_channels(unet.config)]
    module = recipes.UNet(unet, found)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*_inputs(unet, lanes, tokens), unsteered, adapters)
    return float(counter.get_total_flops()) / 1e9


def _inputs(unet: Any, lanes: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    config = unet.config
    size = config.sample_size
    sample = torch.empty(lanes, config.in_channels, size, size, device="meta")
    timestep = torch.empty(lanes, device="meta")
    return sample, timestep, torch.empty(lanes, tokens, config.cross_attention_dim, device="meta")


def against_peak(gflop: float, samples_ms: Sequence[float], peak: float) -> dict[str, float]:
    """A pass's operations, time and rate, and the rate's share of the peak."""
    ms = median(samples_ms)
    rate = gflop / ms * 1000
    return {"gflop": gflop, "ms": ms, "gflops": rate, "share_of_peak": rate / peak}

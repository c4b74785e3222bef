"""Operations of a forward pass, counted by torch; `common/peaks` says what the machine can do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from impasto_export.tracing import recipes, sites


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

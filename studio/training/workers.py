"""Several processes as one trainer, under torchrun's environment variables; a lone process works the same.

One thread per process with one exchange a step keeps its speed on a machine that other work is using, where the
threads of one process would wait for each other in every operation.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


def join() -> None:
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace every tensor by its sum over the workers, in one exchange."""
    if count() > 1:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def slowest(seconds: float) -> float:
    """The same number on every worker, so that all stop at the same step."""
    if count() == 1:
        return seconds
    value = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return float(value)


@torch.no_grad()
def share(module: nn.Module) -> None:
    """Give every worker the first one's weights."""
    if count() > 1:
        for weight in module.parameters():
            dist.broadcast(weight.data, 0)

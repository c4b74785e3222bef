"""Modules without weights: their parameters have shapes and no data, so that any size of them can be exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode


def mode() -> FakeTensorMode:
    """Tensors made under it have no data, either: a graph's example inputs."""
    return FakeTensorMode(allow_non_fake_inputs=True)


@contextmanager
def parameters(faking: FakeTensorMode) -> Iterator[None]:
    """Modules built meanwhile get parameters of `faking`. Buffers keep their data: graphs carry them as constants."""
    usual = nn.Module.register_parameter

    def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        usual(module, name, None if parameter is None else nn.Parameter(_like(parameter)))

    def _like(parameter: Tensor) -> Tensor:
        with faking:
            return torch.empty(parameter.shape, dtype=parameter.dtype)

    # In place of the class's method: assigning a Parameter to an attribute comes through it, too.
    nn.Module.register_parameter = register  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = usual  # type: ignore[method-assign]

"""Build modules without weights: their parameters have shapes but no data, so that any size can be exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode


def mode() -> FakeTensorMode:
    """The fake mode. Tensors made under it have no data either, such as a graph's example inputs."""
    return FakeTensorMode(allow_non_fake_inputs=True)


@contextmanager
def parameters(faking: FakeTensorMode) -> Iterator[None]:
    """Modules built in this block get fake parameters. Buffers keep their data: graphs carry them as constants."""
    usual = nn.Module.register_parameter

    def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        usual(module, name, None if parameter is None else nn.Parameter(_like(parameter)))

    def _like(parameter: Tensor) -> Tensor:
        with faking:
            return torch.empty(parameter.shape, dtype=parameter.dtype)

    # The method is replaced on the class: assigning a Parameter to an attribute calls it, too.
    nn.Module.register_parameter = register  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = usual  # type: ignore[method-assign]

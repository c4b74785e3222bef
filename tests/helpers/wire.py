"""Send requests as raw KServe tensors, to test what impasto's client would never send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferResult  # type: ignore[import-untyped]
from tritonclient.utils import InferenceServerException, np_to_triton_dtype  # type: ignore[import-untyped]

Tensor = NDArray[Any]


def texts(*values: str | bytes) -> Tensor:
    return np.array([value.encode() if isinstance(value, str) else value for value in values], np.object_)


def ints(*values: int) -> Tensor:
    return np.array(values, np.int32)


def floats(*values: float) -> Tensor:
    return np.array(values, np.float32)


def ask(client: InferenceServerClient, timeout_us: int | None = None, /, **tensors: Tensor) -> dict[str, Any]:
    """As `ask_all`, for model `stylize`; returns the first value of every output."""
    return {name: values[0] for name, values in ask_all(client, "stylize", timeout_us, **tensors).items()}


def ask_all(
    client: InferenceServerClient, model: str, timeout_us: int | None = None, /, **tensors: Tensor
) -> dict[str, Tensor]:
    """Infer with `tensors` as they are; returns every output by name."""
    answer = client.infer(model, inputs(tensors), client_timeout=60, timeout=timeout_us)
    return outputs(answer)


def inputs(tensors: Mapping[str, Tensor]) -> list[InferInput]:
    found = [InferInput(name, list(t.shape), np_to_triton_dtype(t.dtype)) for name, t in tensors.items()]
    for one, tensor in zip(found, tensors.values(), strict=True):
        one.set_data_from_numpy(tensor)
    return found


def outputs(result: InferResult) -> dict[str, Tensor]:
    """All outputs that the server sent, by name."""
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def refused(client: InferenceServerClient, timeout_us: int | None = None, /, **tensors: Tensor) -> tuple[str, str]:
    """The status and message of a request, which must fail."""
    try:
        ask(client, timeout_us, **tensors)
    except InferenceServerException as error:
        return error.status().removeprefix("StatusCode."), error.message()
    raise AssertionError("the server answered a request that it should refuse")

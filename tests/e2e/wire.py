"""A request in raw KServe tensors, so that what our client would never send can be sent."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput  # type: ignore[import-untyped]
from tritonclient.utils import InferenceServerException, np_to_triton_dtype  # type: ignore[import-untyped]

Tensor = NDArray[Any]


def texts(*values: str | bytes) -> Tensor:
    return np.array([value.encode() if isinstance(value, str) else value for value in values], np.object_)


def ints(*values: int) -> Tensor:
    return np.array(values, np.int32)


def floats(*values: float) -> Tensor:
    return np.array(values, np.float32)


def ask(client: InferenceServerClient, timeout_us: int | None = None, /, **tensors: Tensor) -> dict[str, Any]:
    """Infer with `tensors` in the dtypes and shapes they have; the first value of every output, by name."""
    inputs = []
    for name, tensor in tensors.items():
        one = InferInput(name, list(tensor.shape), np_to_triton_dtype(tensor.dtype))
        one.set_data_from_numpy(tensor)
        inputs.append(one)
    answer = client.infer("stylize", inputs, client_timeout=60, timeout=timeout_us)
    return {name: answer.as_numpy(name)[0] for name in ("IMAGE", "SEED", "META")}


def refused(client: InferenceServerClient, timeout_us: int | None = None, /, **tensors: Tensor) -> tuple[str, str]:
    """Status and message of a request that must not succeed."""
    try:
        ask(client, timeout_us, **tensors)
    except InferenceServerException as error:
        return error.status().removeprefix("StatusCode."), error.message()
    raise AssertionError("the server answered a request that it should refuse")

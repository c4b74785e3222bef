"""Triton's requests and responses as ours: tensors and errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from impasto_server.errors import Code, ImpastoError, brief
from impasto_server.outputs import Tensors

# Triton's names for our codes. Names, because the stub fills pb_utils only after this module is imported. Its Python
# backend, from 2.51 to 2.73, knows UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS
# and CANCELLED. Proxies and gRPC's own policies send UNAVAILABLE anew, which is right for a full server and wrong for
# time that has passed: nobody sends CANCELLED anew.
CODES: Mapping[Code, str] = {
    "INVALID_ARGUMENT": "INVALID_ARG",
    "NOT_FOUND": "NOT_FOUND",
    "UNAVAILABLE": "UNAVAILABLE",
    "RESOURCE_EXHAUSTED": "UNAVAILABLE",
    "DEADLINE_EXCEEDED": "CANCELLED",
    "CANCELLED": "CANCELLED",
    "INTERNAL": "INTERNAL",
}
# Triton has no codes of its own for these two, so the message begins with them. config.pbtxt tells authors of clients.
SPOKEN: tuple[Code, ...] = ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")


def tensors(request: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The inputs that were sent, by name; BYTES are object arrays of `bytes`."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def response(outcome: Tensors | ImpastoError) -> Any:
    """What is sent for it."""
    return refusal(outcome) if isinstance(outcome, ImpastoError) else filled(outcome)


def filled(outputs: Tensors) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in outputs.items()])


def refusal(error: ImpastoError) -> Any:
    said = f"{error.code}: {error}" if error.code in SPOKEN else str(error)
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(brief(said), getattr(pb_utils.TritonError, CODES[error.code]))
    )

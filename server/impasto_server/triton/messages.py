"""Conversion between Triton's requests and responses and our tensors and errors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, get_args

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from impasto_server.errors import Code, ImpastoError, brief
from impasto_server.outputs import Tensors

# Our codes → the names of Triton's; names, because the stub fills pb_utils only after this module is imported. Its
# Python backend, from 2.51 to 2.73, knows UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED,
# ALREADY_EXISTS and CANCELLED. Proxies and gRPC's retry policies retry UNAVAILABLE, which is right for a full server
# and wrong for a passed deadline; nobody retries CANCELLED.
CODES: Mapping[Code, str] = {
    "INVALID_ARGUMENT": "INVALID_ARG",
    "NOT_FOUND": "NOT_FOUND",
    "UNAVAILABLE": "UNAVAILABLE",
    "RESOURCE_EXHAUSTED": "UNAVAILABLE",
    "DEADLINE_EXCEEDED": "CANCELLED",
    "CANCELLED": "CANCELLED",
    "INTERNAL": "INTERNAL",
}
# Triton has no codes for these two, so the message begins with them; config.pbtxt documents it for clients.
SPOKEN: tuple[Code, ...] = ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
# On a stream every message does: there Triton sends a text alone, unless a client asks for statuses. No client should:
# one that leaves as such an error is sent makes Triton 2.51 abort.
STREAMED: tuple[Code, ...] = get_args(Code)


def tensors(request: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The inputs that were sent, by name; BYTES are object arrays of `bytes`."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def response(outcome: Tensors | ImpastoError, spoken: Collection[Code] = SPOKEN) -> Any:
    """The response for an outcome; an error's message begins with its code if that is one of `spoken`."""
    return refusal(outcome, spoken) if isinstance(outcome, ImpastoError) else filled(outcome)


def filled(outputs: Tensors) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in outputs.items()])


def refusal(error: ImpastoError, spoken: Collection[Code] = SPOKEN) -> Any:
    said = f"{error.code}: {error}" if error.code in spoken else str(error)
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(brief(said), getattr(pb_utils.TritonError, CODES[error.code]))
    )

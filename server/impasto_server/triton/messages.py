"""Triton's requests and responses as ours: tensors → Request, and Progress, Result and errors → responses."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from impasto_server.errors import Code, ImpastoError, InvalidArgument, brief
from impasto_server.offer import Offer, parse
from impasto_server.ops.local import answer, report
from impasto_server.pipeline import Progress, Result
from impasto_server.request import Request
from impasto_server.triton.relay import Painter

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
MAX_TIMEOUT_US = 7 * 24 * 3600 * 10**6  # a week


def read(request: Any, offer: Offer, inputs: Collection[str], painter: Painter) -> Request:
    """The request for `painter`, which counts those that can't be read. Raises InvalidArgument."""
    try:
        return parse(tensors(request), offer, inputs, timeout_s(request))
    except InvalidArgument:
        painter.refused()
        raise


def timeout_s(request: Any) -> float | None:
    """What the request's parameter `timeout` allows; None for none, and for 0: Triton doesn't tell the two apart.

    Raises InvalidArgument.
    """
    microseconds = request.timeout()
    if microseconds > MAX_TIMEOUT_US:
        sent = microseconds - (1 << 64) if microseconds >> 63 else microseconds  # Triton drops the sign
        fix = f"pass the parameter timeout as 1 to {MAX_TIMEOUT_US} microseconds, or leave it out for no limit"
        raise InvalidArgument("TIMEOUT", f"{sent} is out of range", fix)
    return microseconds / 1e6 if microseconds else None


def tensors(request: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The inputs that were sent, by name; BYTES are object arrays of `bytes`."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def response(outcome: Progress | Result | ImpastoError) -> Any:
    """What is sent for it."""
    if isinstance(outcome, ImpastoError):
        return refusal(outcome)
    return filled(report(outcome) if isinstance(outcome, Progress) else answer(outcome))


def filled(outputs: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in outputs.items()])


def refusal(error: ImpastoError) -> Any:
    said = f"{error.code}: {error}" if error.code in SPOKEN else str(error)
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(brief(said), getattr(pb_utils.TritonError, CODES[error.code]))
    )

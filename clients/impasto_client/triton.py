"""Transports over Triton's gRPC endpoint, and what its status codes mean to a caller."""

from __future__ import annotations

import re
from typing import Any

import tritonclient.grpc as triton  # type: ignore[import-untyped]
import tritonclient.grpc.aio as triton_aio  # type: ignore[import-untyped]
from numpy.typing import NDArray
from tritonclient.utils import (  # type: ignore[import-untyped]
    InferenceServerException,
    np_to_triton_dtype,
)

from impasto_client.errors import ConnectError, DeadlineExceeded, ImpastoError, ServerUnavailable
from impasto_client.status import field_of, refusal
from impasto_client.wire import MODEL, OUTPUTS, Tensors

READY_TIMEOUT_S = 5.0
MAX_MESSAGE_BYTES = 2**31 - 1

# gRPC shares connections of one address between channels of one process, backoff included; with a pool of its own a
# new client finds a restarted server at once.
CHANNEL = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
]

# gRPC reports a connection that can't be made with the status that a server uses to say "not now".
_NO_CONNECTION = re.compile(
    r"failed to connect|connections to all backends failing|DNS resolution failed|errors resolving|"
    r"Socket closed|Connection reset|Connection refused|tcp handshaker|empty address list|GOAWAY"
)


class GrpcTransport:
    """Blocking; safe to call from several threads. `timeout` in seconds bounds each request; None waits for ever."""

    def __init__(self, url: str, *, timeout: float | None) -> None:
        self._url, self._timeout = url, timeout
        self._client = triton.InferenceServerClient(url, channel_args=CHANNEL)

    def infer(self, tensors: Tensors) -> Tensors:
        """Raises errors of the ImpastoError tree."""
        try:
            result = self._client.infer(MODEL, _inputs(tensors), client_timeout=self._timeout)
        except InferenceServerException as error:
            raise translate(error, self._url, self._timeout) from None
        return _outputs(result)

    def is_ready(self) -> bool:
        """Whether the model is loaded and answers; False also when nothing answers at the url."""
        try:
            return bool(self._client.is_model_ready(MODEL, client_timeout=READY_TIMEOUT_S))
        except InferenceServerException:
            return False

    def close(self) -> None:
        """Close the channel."""
        self._client.close()


class AsyncGrpcTransport:
    """The same for asyncio; belongs to the event loop it is first used in."""

    def __init__(self, url: str, *, timeout: float | None) -> None:
        self._url, self._timeout = url, timeout
        self._client = triton_aio.InferenceServerClient(url, channel_args=CHANNEL)

    async def infer(self, tensors: Tensors) -> Tensors:
        """Raises errors of the ImpastoError tree."""
        try:
            result = await self._client.infer(MODEL, _inputs(tensors), client_timeout=self._timeout)
        except InferenceServerException as error:
            raise translate(error, self._url, self._timeout) from None
        return _outputs(result)

    async def is_ready(self) -> bool:
        """Whether the model is loaded and answers; False also when nothing answers at the url."""
        try:
            return bool(await self._client.is_model_ready(MODEL, client_timeout=READY_TIMEOUT_S))
        except InferenceServerException:
            return False

    async def close(self) -> None:
        """Close the channel."""
        await self._client.close()


def translate(error: InferenceServerException, url: str, timeout: float | None) -> ImpastoError:
    """Triton's one exception as one of ours."""
    status = str(error.status()).removeprefix("StatusCode.")
    message = str(error.message())
    if status == "NOT_FOUND" and field_of(message) is None:
        return ServerUnavailable(f"the server at {url} does not serve the model {MODEL!r}: {message}")
    if status == "DEADLINE_EXCEEDED":
        return DeadlineExceeded(f"no answer from {url} within {timeout} s; raise timeout, or ask for fewer steps")
    if status == "UNAVAILABLE" and _NO_CONNECTION.search(message):
        return ConnectError(f"nothing answers at {url}; start a server with `impasto serve` ({message})")
    return refusal(status, message)


def _inputs(tensors: Tensors) -> list[Any]:
    return [_input(name, tensor) for name, tensor in tensors.items()]


def _input(name: str, tensor: NDArray[Any]) -> Any:
    carried = triton.InferInput(name, list(tensor.shape), np_to_triton_dtype(tensor.dtype))
    carried.set_data_from_numpy(tensor)
    return carried


def _outputs(result: Any) -> Tensors:
    found = {name: result.as_numpy(name) for name in OUTPUTS}
    return {name: tensor for name, tensor in found.items() if tensor is not None}

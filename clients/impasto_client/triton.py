"""Transports over Triton's gRPC endpoint.

They use tritonclient's stub, not its InferenceServerClient: that one allows a single stream, and leaves a thread behind
for every cancelled stream. Nor do streams ask for an error's status (the header `triton_grpc_error`): Triton
2.51 aborts where a caller leaves such a stream just as the error is sent; seconds of short streams with deadlines are
enough. The message begins with the status instead.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Generator
from typing import Any

import grpc  # type: ignore[import-untyped]
from tritonclient.grpc import (  # type: ignore[import-untyped]
    InferResult,
    service_pb2,
    service_pb2_grpc,
)
from tritonclient.utils import (  # type: ignore[import-untyped]
    np_to_triton_dtype,
    serialize_byte_tensor,
)

from impasto_client.catalogue import CATALOGUE
from impasto_client.errors import ConnectError, ImpastoError, InvalidRequest
from impasto_client.failure import Line
from impasto_client.routing import routed
from impasto_client.scoring import SCORER
from impasto_client.status import spoken
from impasto_client.tensor import shown
from impasto_client.wire import MODEL, STREAM, Tensors

READY_TIMEOUT_S = 5.0
SLACK_S = 1.0  # beyond a request's timeout, for the server's own answer that it has passed
MAX_REQUEST_BYTES = 1 << 30
MAX_MESSAGE_BYTES = MAX_REQUEST_BYTES + (1 << 20)  # both ways; sixteen large pictures are about 800 MB

# By default, all channels of a process share the connections to an address, with their backoff. With its own pool, a
# new client finds a restarted server at once. During a request, a ping every half minute finds out whether the server,
# or the way to it, is gone. `impasto serve` makes Triton allow that; a server that takes pings for abuse would close
# the connection. While there is no server, each second tries again: gRPC's own pauses grow to minutes, during which
# requests fail though the server is back.
CHANNEL = [
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),  # the same, since newer gRPC (e.g. 1.85) ignores the line before
    ("grpc.http2.max_pings_without_data", 0),  # no limit
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
]

_SCHEME = re.compile(r"\w+://[^/]")  # gRPC's own schemes have three slashes: dns:///


class GrpcTransport:
    """The blocking transport; several threads may use it, and share its connection. `url` is host:port.

    Raises ConnectError for any other url.
    """

    def __init__(self, url: str) -> None:
        self._line = Line(checked_url(url))
        self._channel = grpc.insecure_channel(url, options=CHANNEL)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """Raises errors of the ImpastoError tree."""
        return self._ask(MODEL, tensors, timeout_s)

    def score(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """Raises errors of the ImpastoError tree."""
        return self._ask(SCORER, tensors, timeout_s)

    def catalogue(self, timeout_s: float | None = None) -> Tensors:
        """Raises errors of the ImpastoError tree."""
        return self._ask(CATALOGUE, {}, timeout_s)

    def stream(self, tensors: Tensors, timeout_s: float | None = None) -> Generator[Tensors, None, None]:
        """The request is sent when iteration begins. Raises errors of the ImpastoError tree."""
        requests = iter([_request(STREAM, tensors, timeout_s)])
        with self._line.telling(timeout_s):
            call = self._stub.ModelStreamInfer(requests, timeout=_backstop_s(timeout_s), metadata=routed(tensors))
            refused = ""
            try:
                for response in call:  # to the end, after an error too: see Client.stream
                    refused = refused or response.error_message
                    if not refused:
                        yield _outputs(response.infer_response)
            finally:
                call.cancel()
            if refused:
                raise self._line.refusal(*spoken(refused))

    def is_ready(self) -> bool:
        """Whether the model is loaded and answers; False also when nothing answers at the url, and once closed."""
        try:
            with self._line.telling(READY_TIMEOUT_S):
                return bool(self._stub.ModelReady(_READY, timeout=READY_TIMEOUT_S).ready)
        except ImpastoError:
            return False

    def close(self) -> None:
        """Close the channel."""
        self._line.close()
        self._channel.close()

    def _ask(self, model: str, tensors: Tensors, timeout_s: float | None) -> Tensors:
        with self._line.telling(timeout_s):
            request = _request(model, tensors, timeout_s)
            return _outputs(self._stub.ModelInfer(request, timeout=_backstop_s(timeout_s), metadata=routed(tensors)))


class AsyncGrpcTransport:
    """The transport for asyncio; it belongs to the event loop in which it is first used."""

    def __init__(self, url: str) -> None:
        self._line = Line(checked_url(url))
        self._channel = grpc.aio.insecure_channel(url, options=CHANNEL)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """Raises errors of the ImpastoError tree."""
        return await self._ask(MODEL, tensors, timeout_s)

    async def score(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        """Raises errors of the ImpastoError tree."""
        return await self._ask(SCORER, tensors, timeout_s)

    async def catalogue(self, timeout_s: float | None = None) -> Tensors:
        """Raises errors of the ImpastoError tree."""
        return await self._ask(CATALOGUE, {}, timeout_s)

    async def stream(self, tensors: Tensors, timeout_s: float | None = None) -> AsyncGenerator[Tensors, None]:
        """The request is sent when iteration begins. Raises errors of the ImpastoError tree."""
        requests = iter([_request(STREAM, tensors, timeout_s)])
        with self._line.telling(timeout_s):
            call = self._stub.ModelStreamInfer(requests, timeout=_backstop_s(timeout_s), metadata=routed(tensors))
            refused = ""
            try:
                async for response in call:  # to the end, after an error too: see Client.stream
                    refused = refused or response.error_message
                    if not refused:
                        yield _outputs(response.infer_response)
            finally:
                call.cancel()
            if refused:
                raise self._line.refusal(*spoken(refused))

    async def is_ready(self) -> bool:
        """Whether the model is loaded and answers; False also when nothing answers at the url, and once closed."""
        try:
            with self._line.telling(READY_TIMEOUT_S):
                return bool((await self._stub.ModelReady(_READY, timeout=READY_TIMEOUT_S)).ready)
        except ImpastoError:
            return False

    async def close(self) -> None:
        """Close the channel."""
        self._line.close()
        await self._channel.close()

    async def _ask(self, model: str, tensors: Tensors, timeout_s: float | None) -> Tensors:
        with self._line.telling(timeout_s):
            request = _request(model, tensors, timeout_s)
            return _outputs(
                await self._stub.ModelInfer(request, timeout=_backstop_s(timeout_s), metadata=routed(tensors))
            )


_READY = service_pb2.ModelReadyRequest(name=MODEL)


def checked_url(url: object) -> str:
    """The url. Raises ConnectError for a bad one: gRPC would look up "http" as a host, and take a port modulo 65536."""
    if not isinstance(url, str):
        raise ConnectError(f"{shown(url)} is not a url; pass that of the server's gRPC, e.g. 'localhost:8001'")
    host, _, port = url.rpartition(":")
    is_port = port.isdecimal() and 0 < int(port) < 1 << 16
    if url.startswith("unix:") or (host and is_port and not _SCHEME.match(host)):
        return url
    raise ConnectError(f"{url!r} is not a host:port; pass that of the server's gRPC, e.g. localhost:8001")


def _request(model: str, tensors: Tensors, timeout_s: float | None) -> Any:
    """KServe's ModelInferRequest; its parameter `timeout`, in microseconds, tells the server how long we wait."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, tensor in tensors.items():
        datatype = np_to_triton_dtype(tensor.dtype)
        request.inputs.add(name=name, datatype=datatype, shape=tensor.shape)
        content = serialize_byte_tensor(tensor).item() if datatype == "BYTES" else tensor.tobytes()
        request.raw_input_contents.append(content)
    _check_size(request)
    if timeout_s is not None:
        request.parameters["timeout"].int64_param = max(1, round(timeout_s * 1e6))  # 0 would mean no limit
    return request


def _backstop_s(timeout_s: float | None) -> float | None:
    """gRPC's deadline: later than the server's own. Where both fall together, Triton 2.51 gives back a call twice, and
    aborts (`ASSERTION FAILED: prior > 0`); a few thousand short requests are enough.
    """
    return None if timeout_s is None else timeout_s + SLACK_S


def _check_size(request: Any) -> None:
    """Raises InvalidRequest for more than gRPC can carry; gRPC's own error would not name the field."""
    sizes = [len(content) for content in request.raw_input_contents]
    if sum(sizes) > MAX_REQUEST_BYTES:
        field = request.inputs[sizes.index(max(sizes))].name
        fix = f"pass fewer pictures in one request, or smaller ones, {MAX_REQUEST_BYTES} (1 GiB) in all"
        raise InvalidRequest(f"{field}: {sum(sizes)} bytes is too large a request; {fix}", field)


def _outputs(response: Any) -> Tensors:
    result = InferResult(response)
    return {output.name: result.as_numpy(output.name) for output in response.outputs}

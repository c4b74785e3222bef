"""The gRPC transports over a real socket, against a minimal server of KServe's protocol in this process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc  # type: ignore[import-untyped]
import numpy as np
import pytest
from tritonclient.grpc import (  # type: ignore[import-untyped]
    service_pb2,
    service_pb2_grpc,
)
from tritonclient.utils import (  # type: ignore[import-untyped]
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from impasto_client import (
    AdapterNotFound,
    AsyncClient,
    Client,
    ConnectError,
    DeadlineExceeded,
    FakeTransport,
    ImpastoError,
    InvalidRequest,
    ProtocolError,
    ServerError,
    ServerUnavailable,
)
from impasto_client.wire import Tensors

Handler = Callable[[Tensors, Any], Tensors]


class Server(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Serves `stylize` by `handle`, a function of the input tensors and gRPC's context; `cancelled` once one was."""

    def __init__(self) -> None:
        self.handle: Handler = lambda tensors, context: FakeTransport().infer(tensors)
        self.cancelled = threading.Event()

    def ModelInfer(self, request: Any, context: Any) -> Any:
        assert request.model_name == "stylize"
        return _response(self.handle(_tensors(request), context))

    def ModelReady(self, request: Any, context: Any) -> Any:
        return service_pb2.ModelReadyResponse(ready=request.name == "stylize")


def _tensors(request: Any) -> Tensors:
    return {
        tensor.name: _array(tensor.datatype, content).reshape(tuple(tensor.shape))
        for tensor, content in zip(request.inputs, request.raw_input_contents, strict=True)
    }


def _array(datatype: str, content: bytes) -> np.ndarray[Any, Any]:
    if datatype == "BYTES":
        return cast("np.ndarray[Any, Any]", deserialize_bytes_tensor(content))
    return np.frombuffer(content, triton_to_np_dtype(datatype))


def _response(tensors: Tensors) -> Any:
    response = service_pb2.ModelInferResponse(model_name="stylize", model_version="1")
    for name, tensor in tensors.items():
        datatype = np_to_triton_dtype(tensor.dtype)
        response.outputs.add(name=name, datatype=datatype, shape=tensor.shape)
        content = serialize_byte_tensor(tensor).item() if datatype == "BYTES" else tensor.tobytes()
        response.raw_output_contents.append(content)
    return response


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    servicer = Server()
    runner = grpc.server(ThreadPoolExecutor(8))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, runner)
    port = runner.add_insecure_port("127.0.0.1:0")
    runner.start()
    yield servicer, f"127.0.0.1:{port}"
    runner.stop(None).wait()


def refusing(code: grpc.StatusCode, message: str) -> Handler:
    def handle(tensors: Tensors, context: Any) -> Tensors:
        context.abort(code, message)
        raise AssertionError

    return handle


def test_every_word_crosses_the_socket(server: tuple[Server, str]) -> None:
    servicer, url = server
    fake = FakeTransport()
    servicer.handle = lambda tensors, context: fake.infer(tensors)
    with Client(url, timeout=10) as client:
        generation = client.generate(
            "ein rotes Boot 🚣", styles={"neon": 0.5}, negative_prompt="blurry", steps=3, guidance_scale=2.5,
            scheduler="euler", seed=2**63 - 1, width=64, height=32, format="png",
        )  # fmt: skip
    assert {name: (str(tensor.dtype), tensor.tolist()) for name, tensor in fake.requests[0].items()} == {
        "PROMPT": ("object", ["ein rotes Boot 🚣".encode()]),
        "ADAPTER_NAMES": ("object", [b"neon"]),
        "ADAPTER_WEIGHTS": ("float32", [0.5]),
        "NEGATIVE_PROMPT": ("object", [b"blurry"]),
        "STEPS": ("int32", [3]),
        "GUIDANCE_SCALE": ("float32", [2.5]),
        "SCHEDULER": ("object", [b"euler"]),
        "SEED": ("int64", [2**63 - 1]),
        "WIDTH": ("int32", [64]),
        "HEIGHT": ("int32", [32]),
        "FORMAT": ("object", [b"png"]),
    }
    assert (generation.seed, generation.image.size) == (2**63 - 1, (64, 32))


def test_readiness_is_the_models(server: tuple[Server, str]) -> None:
    with Client(server[1]) as client:
        assert client.is_ready()


@pytest.mark.parametrize(
    ("code", "message", "kind", "field"),
    [
        ("INVALID_ARGUMENT", "STEPS: 0 is out of range; pass 1 to 200", InvalidRequest, "STEPS"),
        ("INVALID_ARGUMENT", "[request id: 1] unexpected shape for input 'SEED' for model", InvalidRequest, "SEED"),
        ("INVALID_ARGUMENT", "something else", InvalidRequest, None),
        ("NOT_FOUND", "ADAPTER_NAMES: no adapter 'neom'; did you mean 'neon'?", AdapterNotFound, "ADAPTER_NAMES"),
        ("NOT_FOUND", "Request for unknown model: 'stylize' is not found", ServerUnavailable, None),
        ("UNAVAILABLE", "the server is stopping", ServerUnavailable, None),
        ("RESOURCE_EXHAUSTED", "the queue is full", ServerUnavailable, None),
        ("INTERNAL", "the backbone gave NaN", ServerError, None),
        ("UNIMPLEMENTED", "no such method", ServerError, None),
    ],
)  # fmt: skip
def test_a_status_becomes_an_error(
    server: tuple[Server, str], code: str, message: str, kind: type[ImpastoError], field: str | None
) -> None:
    servicer, url = server
    servicer.handle = refusing(grpc.StatusCode[code], message)
    with Client(url, timeout=10) as client, pytest.raises(kind) as caught:
        client.generate("a red boat")
    assert type(caught.value) is kind
    assert message in str(caught.value)
    assert getattr(caught.value, "field", None) == field


def test_the_next_request_after_an_error_succeeds(server: tuple[Server, str]) -> None:
    servicer, url = server
    good, servicer.handle = servicer.handle, refusing(grpc.StatusCode.INTERNAL, "once")
    with Client(url, timeout=10) as client:
        with pytest.raises(ServerError):
            client.generate("a red boat")
        servicer.handle = good
        assert client.generate("a red boat").image.size == (128, 128)


def test_an_answer_without_an_image_is_a_protocol_error(server: tuple[Server, str]) -> None:
    servicer, url = server
    servicer.handle = lambda tensors, context: {"SEED": np.array([1], dtype=np.int64)}
    with Client(url, timeout=10) as client, pytest.raises(ProtocolError, match="META"):
        client.generate("a red boat")


def test_a_deadline_ends_the_wait_and_tells_the_server(server: tuple[Server, str]) -> None:
    servicer, url = server
    servicer.handle = _waits_until_cancelled(servicer)
    with Client(url, timeout=0.3) as client, pytest.raises(DeadlineExceeded, match=r"within 0\.3 s"):
        client.generate("a red boat")
    assert servicer.cancelled.wait(5)


def test_nobody_there_is_a_connect_error() -> None:
    with Client(_free_url(), timeout=10) as client:
        assert not client.is_ready()
        with pytest.raises(ConnectError, match="impasto serve"):
            client.generate("a red boat")


def test_a_name_that_does_not_resolve_is_a_connect_error() -> None:
    with Client("no-such-host.invalid:8001", timeout=20) as client, pytest.raises(ConnectError):
        client.generate("a red boat")


def test_a_client_finds_a_server_that_came_after_it() -> None:
    url = _free_url()
    with Client(url, timeout=10) as early, pytest.raises(ConnectError):
        early.generate("a red boat")
    runner = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Server(), runner)
    assert runner.add_insecure_port(url)
    runner.start()
    with Client(url, timeout=10) as late:  # does not inherit the early one's backoff
        assert late.is_ready()
    runner.stop(None).wait()


def test_asyncio_requests_overlap(server: tuple[Server, str]) -> None:
    servicer, url = server
    together = threading.Barrier(3, timeout=10)

    def handle(tensors: Tensors, context: Any) -> Tensors:
        together.wait()
        return FakeTransport().infer(tensors)

    servicer.handle = handle

    async def ask() -> list[int]:
        async with AsyncClient(url, timeout=10) as client:
            assert await client.is_ready()
            return [answer.seed for answer in await asyncio.gather(*(client.generate("x", seed=n) for n in range(3)))]

    assert asyncio.run(ask()) == [0, 1, 2]


def test_asyncio_errors_are_the_same(server: tuple[Server, str]) -> None:
    servicer, url = server
    servicer.handle = refusing(grpc.StatusCode.NOT_FOUND, "ADAPTER_NAMES: no adapter 'neom'; known: neon")

    async def ask(url: str, timeout: float) -> None:
        async with AsyncClient(url, timeout=timeout) as client:
            await client.generate("a red boat")

    with pytest.raises(AdapterNotFound):
        asyncio.run(ask(url, 10))
    servicer.handle = _waits_until_cancelled(servicer)
    with pytest.raises(DeadlineExceeded):
        asyncio.run(ask(url, 0.3))
    with pytest.raises(ConnectError):
        asyncio.run(ask(_free_url(), 10))


def test_cancelling_a_task_cancels_the_request(server: tuple[Server, str]) -> None:
    servicer, url = server
    arrived = threading.Event()
    waits = _waits_until_cancelled(servicer)

    def handle(tensors: Tensors, context: Any) -> Tensors:
        arrived.set()
        return waits(tensors, context)

    servicer.handle = handle

    async def ask() -> None:
        async with AsyncClient(url, timeout=10) as client:
            task = asyncio.create_task(client.generate("a red boat"))
            assert await asyncio.to_thread(arrived.wait, 5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(ask())
    assert servicer.cancelled.wait(5)


def _waits_until_cancelled(servicer: Server) -> Handler:
    def handle(tensors: Tensors, context: Any) -> Tensors:
        ended = threading.Event()
        if context.add_callback(ended.set):  # False when the request has ended already
            assert ended.wait(10)
        servicer.cancelled.set()
        return FakeTransport().infer(tensors)

    return handle


def _free_url() -> str:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{held.getsockname()[1]}"

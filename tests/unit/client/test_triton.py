"""The gRPC transports over a real socket, against a minimal server of KServe's protocol in this process."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from itertools import islice
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
    Catalogue,
    Client,
    Compose,
    ConnectError,
    DeadlineExceeded,
    FakeTransport,
    Generation,
    ImpastoError,
    InvalidRequest,
    Options,
    Progress,
    ProtocolError,
    ServerDeclined,
    ServerError,
    ServerFull,
    ServerLost,
    ServerUnavailable,
    StyleContent,
    sending,
)
from impasto_client.triton import CHANNEL
from impasto_client.wire import Tensors

Handler = Callable[[Tensors, Any], Tensors]
StreamHandler = Callable[[Tensors, Any], Iterable[Tensors | str]]


class Server(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Serves `stylize` by `handle`, `stylize_stream` by `handle_stream`, `clip_score` by `handle_score` and `catalogue`
    by `handle_catalogue`, functions of the input tensors and gRPC's context; a text among what a stream's gives goes
    out as its error message.

    `timeouts` are the requests' parameters of that name, `headers` what came beside them, `cancelled` is set once a
    request was.
    """

    def __init__(self) -> None:
        self.handle: Handler = lambda tensors, context: FakeTransport().infer(tensors)
        self.handle_stream: StreamHandler = lambda tensors, context: FakeTransport().stream(tensors)
        self.handle_score: Handler = lambda tensors, context: FakeTransport().score(tensors)
        self.handle_catalogue: Handler = lambda tensors, context: FakeTransport().catalogue()
        self.timeouts: list[int | None] = []
        self.headers: list[dict[str, str]] = []
        self.cancelled = threading.Event()

    def ModelInfer(self, request: Any, context: Any) -> Any:
        handlers = {"stylize": self.handle, "clip_score": self.handle_score, "catalogue": self.handle_catalogue}
        handle = handlers[request.model_name]
        self.timeouts.append(_timeout(request))
        self.headers.append(dict(context.invocation_metadata()))
        return _response(handle(_tensors(request), context))

    def ModelStreamInfer(self, requests: Any, context: Any) -> Iterator[Any]:
        assert "triton_grpc_error" not in dict(context.invocation_metadata()), "it may end Triton"
        (request,) = requests
        assert request.model_name == "stylize_stream"
        self.timeouts.append(_timeout(request))
        self.headers.append(dict(context.invocation_metadata()))
        for part in self.handle_stream(_tensors(request), context):
            if isinstance(part, str):
                yield service_pb2.ModelStreamInferResponse(error_message=part)
            else:
                yield service_pb2.ModelStreamInferResponse(infer_response=_response(part))

    def ModelReady(self, request: Any, context: Any) -> Any:
        return service_pb2.ModelReadyResponse(ready=request.name == "stylize")


def _timeout(request: Any) -> int | None:
    return request.parameters["timeout"].int64_param if "timeout" in request.parameters else None


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


def ending(code: grpc.StatusCode, message: str) -> StreamHandler:
    """One step, then an error."""

    def handle(tensors: Tensors, context: Any) -> Iterator[Tensors]:
        yield from islice(FakeTransport().stream(tensors), 1)
        context.abort(code, message)

    return handle


def test_every_word_crosses_the_socket(server: tuple[Server, str]) -> None:
    servicer, url = server
    fake = FakeTransport()
    servicer.handle = lambda tensors, context: fake.infer(tensors)
    with Client(url, timeout=10) as client:
        generation = client.generate(
            "ein rotes Boot 🚣", adapters={"neon": 0.5}, style=["sks03", "sks05"], negative_prompt="blurry", steps=3,
            guidance=StyleContent(style=2, content=-1, scale=2.5), image=b"\x89PNG\0\0", strength=0.5, depth=b"\0",
            control_scale=0, scheduler="euler", seed=2**63 - 1, width=64, height=32, format="png",
        )  # fmt: skip
    assert {name: (str(tensor.dtype), tensor.tolist()) for name, tensor in fake.requests[0].items()} == {
        "PROMPT": ("object", ["ein rotes Boot 🚣".encode()]),
        "ADAPTER_NAMES": ("object", [b"neon"]),
        "ADAPTER_WEIGHTS": ("float32", [0.5]),
        "STYLE": ("object", [b"sks03", b"sks05"]),
        "NEGATIVE_PROMPT": ("object", [b"blurry"]),
        "STEPS": ("int32", [3]),
        "GUIDANCE": ("object", [b"dreamstyler"]),
        "GUIDANCE_SCALE": ("float32", [2.5]),
        "STYLE_GUIDANCE": ("float32", [2.0]),
        "CONTENT_GUIDANCE": ("float32", [-1.0]),
        "SCHEDULER": ("object", [b"euler"]),
        "SEED": ("int64", [2**63 - 1]),
        "WIDTH": ("int32", [64]),
        "HEIGHT": ("int32", [32]),
        "FORMAT": ("object", [b"png"]),
        "IMAGE": ("object", [b"\x89PNG\0\0"]),
        "STRENGTH": ("float32", [0.5]),
        "DEPTH": ("object", [b"\0"]),
        "CONTROL_SCALE": ("float32", [0.0]),
    }
    assert (generation.seed, generation.image.size) == (2**63 - 1, (64, 32))


def test_words_by_adapters_and_candidates_cross_the_socket(server: tuple[Server, str]) -> None:
    servicer, url = server
    fake = FakeTransport()
    servicer.handle = lambda tensors, context: fake.infer(tensors)
    words: Options = {
        "style": "stained-glass", "content": "my-toy", "guidance": Compose(0.75, 2, 5, "a fish"), "n": 3, "seed": 7,
        "guidance_ramp": True, "temperature": 4.5, "rerank": "style", "style_image": b"\x89PNG\0",
    }  # fmt: skip
    with Client(url, timeout=10) as client:
        generation = client.generate("a red fish", **words)
    assert {name: (str(tensor.dtype), tensor.tolist()) for name, tensor in fake.requests[0].items()} == {
        "PROMPT": ("object", [b"a red fish"]),
        "STYLE": ("object", [b"stained-glass"]),
        "CONTENT": ("object", [b"my-toy"]),
        "GUIDANCE": ("object", [b"styledrop-compose"]),
        "GAMMA": ("float32", [0.75]),
        "STYLE_STRENGTH": ("float32", [2.0]),
        "TEXT_STRENGTH": ("float32", [5.0]),
        "CONTENT_PROMPT": ("object", [b"a fish"]),
        "GUIDANCE_RAMP": ("bool", [True]),
        "TEMPERATURE": ("float32", [4.5]),
        "SEED": ("int64", [7]),
        "N": ("int32", [3]),
        "RERANK": ("object", [b"style"]),
        "STYLE_IMAGE": ("object", [b"\x89PNG\0"]),
    }
    assert generation == Client(transport=FakeTransport()).generate("a red fish", **words)
    assert len(generation.candidates) == 3


@pytest.mark.parametrize("asynchronous", [False, True])
def test_scores_cross_the_socket(server: tuple[Server, str], asynchronous: bool) -> None:
    servicer, url = server
    assert _score(url, asynchronous) == Client(transport=FakeTransport()).score([b"a\0", b"b"], text="a fish")
    assert servicer.timeouts == [2_500_000]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_catalogue_crosses_the_socket(server: tuple[Server, str], asynchronous: bool) -> None:
    servicer, url = server

    async def ask() -> Catalogue:
        async with AsyncClient(url) as client:
            return await client.catalogue(timeout=2.5)

    with Client(url) as client:
        found = asyncio.run(ask()) if asynchronous else client.catalogue(timeout=2.5)
    assert found == Client(transport=FakeTransport()).catalogue()
    assert servicer.timeouts == [2_500_000]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_server_without_a_scorer_is_told_how_to_get_one(server: tuple[Server, str], asynchronous: bool) -> None:
    servicer, url = server
    said = "Request for unknown model: 'clip_score' is not found"
    servicer.handle_score = refusing(grpc.StatusCode.NOT_FOUND, said)
    with pytest.raises(ServerUnavailable, match="has no scorer; start the server with --scorer"):
        _score(url, asynchronous)


def test_a_server_that_is_stopping_says_so_and_not_that_it_never_had_the_model(server: tuple[Server, str]) -> None:
    servicer, url = server
    said = "Request for unknown model: '{}' has no available versions"
    servicer.handle_score = refusing(grpc.StatusCode.UNAVAILABLE, said.format("clip_score"))
    servicer.handle_stream = lambda tensors, context: [said.format("stylize_stream")]
    for ask in (
        lambda client: client.score(b"a", text="a fish"),
        lambda client: list(client.stream("a boat")),
    ):
        with Client(url, timeout=10) as client, pytest.raises(ServerUnavailable, match="is starting or stopping; try"):
            ask(client)


@pytest.mark.parametrize(
    "url", ["", "localhost", ":8001", "localhost:", "localhost:0", "localhost:99999", "localhost:x", "http://host:8001"]
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_url_that_is_no_host_and_port_is_refused(url: str, kind: type[Client] | type[AsyncClient]) -> None:
    with pytest.raises(
        ConnectError, match=f"^'{url}' is not a host:port; pass that of the server's gRPC, e.g. localhost:8001$"
    ):
        kind(url)


@pytest.mark.parametrize("url", [None, 8001, b"localhost:8001"])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_url_that_is_no_text_is_refused(url: Any, kind: type[Client] | type[AsyncClient]) -> None:
    with pytest.raises(ConnectError, match="is not a url; pass that of the server's gRPC, e.g. 'localhost:8001'$"):
        kind(url)


@pytest.mark.parametrize("url", ["localhost:8001", "[::1]:8001", "dns:///host:8001", "unix:/run/impasto.sock"])
def test_whatever_else_grpc_understands_is_a_url(url: str) -> None:
    Client(url).close()


def test_what_a_scorer_refuses_is_the_clients_own_error(server: tuple[Server, str]) -> None:
    servicer, url = server
    servicer.handle_score = refusing(grpc.StatusCode.INVALID_ARGUMENT, "IMAGE: no picture; pass a PNG")
    with Client(url, timeout=10) as client, pytest.raises(InvalidRequest) as caught:
        client.score(b"a", text="a fish")
    assert caught.value.field == "IMAGE"


def test_the_server_is_told_how_long_the_client_waits(server: tuple[Server, str]) -> None:
    servicer, url = server
    with Client(url, timeout=10) as client:
        client.generate("a red boat")
        client.generate("a red boat", timeout=2.5)
        list(client.stream("a red boat", timeout=3))
    with Client(url, timeout=None) as patient:
        patient.generate("a red boat")
    assert servicer.timeouts == [10_000_000, 2_500_000, 3_000_000, None]


def test_the_server_has_a_moment_to_say_that_the_time_has_passed(server: tuple[Server, str]) -> None:
    servicer, url = server

    def late(tensors: Tensors, context: Any) -> Tensors:
        time.sleep(0.3)
        context.abort(grpc.StatusCode.CANCELLED, "DEADLINE_EXCEEDED: not done in 0.2 s")
        raise AssertionError("abort() has raised")

    servicer.handle = late
    with Client(url) as client, pytest.raises(DeadlineExceeded, match="not done in"):
        client.generate("a red boat", timeout=0.2)


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
        ("NOT_FOUND", "Request for unknown model: 'stylize' is not found", ServerDeclined, None),
        ("UNAVAILABLE", "the server is stopping; send the request to another one, or later", ServerDeclined, None),
        ("UNAVAILABLE", "the server has no memory for this request; send it to another one", ServerDeclined, None),
        ("UNAVAILABLE", "the process that holds the backbone ended; try again later", ServerLost, None),
        ("UNAVAILABLE", "ADAPTER_NAMES: 'neon': the registry doesn't answer; try again later", ServerUnavailable, None),
        ("INTERNAL", "Failed to process: Stub process 'stylize_0_0' is not healthy.", ServerLost, None),
        ("UNAVAILABLE", "the server is stopping", ServerUnavailable, None),
        ("RESOURCE_EXHAUSTED", "the queue is full", ServerUnavailable, None),
        ("CANCELLED", "the caller cancelled the request", ServerError, None),
        ("RESOURCE_EXHAUSTED", "the server is full; try again in 1.3 s", ServerFull, None),
        ("INTERNAL", "the backbone gave NaN", ServerError, None),
        ("UNIMPLEMENTED", "no such method", ServerError, None),
    ],
)  # fmt: skip
def test_a_status_becomes_an_error(
    server: tuple[Server, str], code: str, message: str, kind: type[ImpastoError], field: str | None
) -> None:
    servicer, url = server
    servicer.handle = refusing(grpc.StatusCode[code], message)
    servicer.handle_stream = ending(grpc.StatusCode[code], message)
    with Client(url, timeout=10) as client:
        with pytest.raises(kind) as caught:
            client.generate("a red boat")
        with pytest.raises(kind) as streamed:
            list(client.stream("a red boat"))
    for error in (caught.value, streamed.value):
        assert type(error) is kind
        assert message in str(error)
        assert getattr(error, "field", None) == field


def test_a_server_that_allows_no_pings_is_told_how_to(server: tuple[Server, str]) -> None:
    servicer, url = server
    servicer.handle = refusing(grpc.StatusCode.UNAVAILABLE, "Too many pings")
    with Client(url, timeout=10) as client, pytest.raises(ServerUnavailable, match="allow one every 30 s"):
        client.generate("a red boat")


@pytest.mark.parametrize("carrier", ["UNAVAILABLE", "CANCELLED"])
def test_a_status_that_triton_lacks_is_the_message_s_first_word(server: tuple[Server, str], carrier: str) -> None:
    servicer, url = server
    full, late = "the server is full; try again in 1.3 s", "no image within 2 s (3 of 25 steps were done)"
    with Client(url, timeout=10) as client:
        servicer.handle = refusing(grpc.StatusCode[carrier], f"[request id: 1] RESOURCE_EXHAUSTED: {full}")
        with pytest.raises(ServerFull, match=f"^{re.escape(full)}$"):
            client.generate("a red boat")
        servicer.handle = refusing(grpc.StatusCode[carrier], f"DEADLINE_EXCEEDED: {late}")
        with pytest.raises(DeadlineExceeded, match=f"^{re.escape(late)}$"):
            client.generate("a red boat")


def test_more_than_grpc_carries_is_refused_before_it_is_sent(
    server: tuple[Server, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("impasto_client.triton.MAX_REQUEST_BYTES", 1000)
    servicer, url = server
    with Client(url, timeout=10) as client:
        assert client.score([b"a" * 100] * 9, text="a")
        servicer.timeouts.clear()
        with pytest.raises(InvalidRequest, match=r"^IMAGE: \d+ bytes is too large a request; pass fewer pictures"):
            client.score([b"a" * 100] * 10, text="a")
    assert not servicer.timeouts


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


def test_a_stream_brings_each_step_while_it_is_done(server: tuple[Server, str]) -> None:
    servicer, url = server
    may_go_on = threading.Semaphore(0)

    def handle(tensors: Tensors, context: Any) -> Iterator[Tensors]:
        for response in FakeTransport().stream(tensors):
            yield response
            assert may_go_on.acquire(timeout=10)

    servicer.handle_stream = handle
    parts = []
    with Client(url, timeout=10) as client:
        for part in client.stream("a red boat", steps=3, preview_every=2):
            parts.append(part)
            may_go_on.release(2 if len(parts) == 3 else 1)  # the picture waits for the stream's end
    assert parts == list(Client(transport=FakeTransport()).stream("a red boat", steps=3, preview_every=2))


@pytest.mark.parametrize(
    ("message", "kind", "field"),
    [
        ("Request for unknown model: 'stylize_stream' is not found", ServerDeclined, None),
        ("unexpected inference input 'PREVIEW_EVERY' for model 'stylize_stream'", InvalidRequest, "PREVIEW_EVERY"),
        ("expected 3 inputs but got 1 inputs for model 'stylize_stream'", InvalidRequest, None),
        ("Stub process 'stylize_stream_0_0' is not healthy.", ServerLost, None),
        ("Server is stopping, scheduler for model has stopped accepting requests", ServerDeclined, None),
    ],
)
def test_what_triton_refuses_on_a_stream_without_a_status(
    server: tuple[Server, str], message: str, kind: type[ImpastoError], field: str | None
) -> None:
    servicer, url = server
    servicer.handle_stream = lambda tensors, context: [message]
    with Client(url, timeout=10) as client, pytest.raises(kind) as caught:
        list(client.stream("a red boat"))
    assert type(caught.value) is kind
    assert message in str(caught.value)
    assert getattr(caught.value, "field", None) == field


@pytest.mark.parametrize(
    ("message", "kind", "said"),
    [
        ("INVALID_ARGUMENT: STEPS: 0 is out of range", InvalidRequest, "STEPS: 0 is out of range"),
        ("[request id: 1] INVALID_ARGUMENT: STEPS: 0 is low", InvalidRequest, "STEPS: 0 is low"),
        ("NOT_FOUND: ADAPTER_NAMES: no adapter 'neom'", AdapterNotFound, "ADAPTER_NAMES: no adapter 'neom'"),
        ("UNAVAILABLE: the server is stopping", ServerUnavailable, "the server is stopping"),
        ("RESOURCE_EXHAUSTED: it is full; try again in 1.3 s", ServerFull, "it is full; try again in 1.3 s"),
        ("DEADLINE_EXCEEDED: no image within 2 s", DeadlineExceeded, "no image within 2 s"),
        ("CANCELLED: the caller is gone", ServerError, "CANCELLED: the caller is gone"),
        ("INTERNAL: NaN\nin two lines", ServerError, "INTERNAL: NaN\nin two lines"),
    ],
)
@pytest.mark.parametrize("way", ["stream", "async stream"])
def test_an_error_on_a_stream_begins_with_its_status(
    server: tuple[Server, str], way: str, message: str, kind: type[ImpastoError], said: str
) -> None:
    servicer, url = server
    ended = threading.Event()

    def handle(tensors: Tensors, context: Any) -> Iterator[str]:
        yield message
        ended.set()

    servicer.handle_stream = handle
    with pytest.raises(kind) as caught:
        _ask(way, url)
    assert (type(caught.value), str(caught.value)) == (kind, said)
    assert ended.is_set(), "the stream must be read to its end"


def test_leaving_a_stream_cancels_the_request(server: tuple[Server, str]) -> None:
    servicer, url = server
    servicer.handle_stream = _steps_until_cancelled(servicer)
    with Client(url, timeout=10) as client:
        for _ in client.stream("a red boat"):
            break
        assert servicer.cancelled.wait(5)


def test_a_deadline_ends_a_stream_and_tells_the_server(server: tuple[Server, str]) -> None:
    servicer, url = server
    servicer.handle_stream = _steps_until_cancelled(servicer)
    with Client(url, timeout=0.3) as client, pytest.raises(DeadlineExceeded, match=r"within 0\.3 s"):
        list(client.stream("a red boat"))
    assert servicer.cancelled.wait(5)


def test_nobody_there_is_a_connect_error_of_a_stream_too() -> None:
    with Client(_free_url(), timeout=10) as client, pytest.raises(ConnectError, match="impasto serve"):
        next(client.stream("a red boat"))


class Cable:
    """Carries bytes to `port` and back until it is cut; then both ends still seem connected."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._cut = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = [self._listener]
        self.url = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._cut.set()

    def reset(self) -> None:
        """Close without the word that ends a connection, as a machine does whose process is gone."""
        for end in self._ends[1:]:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with suppress(OSError):
                end.shutdown(socket.SHUT_RD)  # has its thread let go of it
            end.close()

    def close(self) -> None:
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = socket.create_connection(("127.0.0.1", self._port))
                self._ends += [here, there]
                for source, target in ((here, there), (there, here)):
                    threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if not self._cut.is_set():
                    target.sendall(data)


@pytest.mark.parametrize("way", ["generate", "stream", "async generate", "async stream"])
def test_a_server_that_is_gone_without_a_word_is_noticed_long_before_the_timeout(
    server: tuple[Server, str], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """After 50 s; here time goes twenty times as fast."""
    servicer, url = server
    servicer.handle = _waits_until_cancelled(servicer)
    servicer.handle_stream = _steps_until_cancelled(servicer)
    monkeypatch.setattr(
        "impasto_client.triton.CHANNEL", [(name, value // 20 if "_ms" in name else value) for name, value in CHANNEL]
    )
    with closing(Cable(int(url.rpartition(":")[2]))) as cable:
        asked = _soon_after_the_request(servicer, cable.cut)
        with pytest.raises(ServerLost, match=rf"^{_lost(cable.url)} \(.*(keepalive|ping timeout)"):
            _ask(way, cable.url)
        assert asked.is_set()


@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize("way", ["generate", "stream", "async generate", "async stream"])
def test_a_connection_that_is_lost_amid_a_request_is_not_one_that_was_never_made(
    server: tuple[Server, str], way: str, how: str
) -> None:
    servicer, url = server
    servicer.handle = _waits_until_cancelled(servicer)
    servicer.handle_stream = _steps_until_cancelled(servicer)
    # Who writes first meets a reset as a broken pipe, who reads first as itself.
    said = {"closed": "(Socket closed|Broken pipe)", "reset": "(Connection reset|Broken pipe)"}[how]
    with closing(Cable(int(url.rpartition(":")[2]))) as cable:
        asked = _soon_after_the_request(servicer, cable.reset if how == "reset" else cable.close)
        with pytest.raises(ServerLost, match=rf"^{_lost(cable.url)} \(.*{said}.*\)$"):
            _ask(way, cable.url)
        assert asked.wait(30)


@pytest.mark.parametrize(
    "message",
    [
        "Stream removed (Socket closed)",
        "Socket closed",
        "recvmsg:Connection reset by peer",
        "Broken pipe",
        "GOAWAY received; Error code: 0; Debug Text: max_age",
        "keepalive watchdog timeout",
        "ping timeout",
        "Cancelling all calls",
    ],
)
def test_words_for_a_connection_that_was_lost(server: tuple[Server, str], message: str) -> None:
    error = _told_as(server, message)
    assert type(error) is ServerLost
    assert re.match(rf"{_lost(server[1])} \({re.escape(message)}\)$", str(error))


def test_a_connection_that_breaks_while_a_request_is_sent_was_lost(server: tuple[Server, str]) -> None:
    """gRPC has an INTERNAL of its own for that; the server's INTERNAL is another thing."""
    error = _told_as(server, "Internal error from Core", grpc.StatusCode.INTERNAL)
    assert type(error) is ServerLost
    assert "send the request again (Internal error from Core)" in str(error)
    assert type(_told_as(server, "the server failed on this request", grpc.StatusCode.INTERNAL)) is ServerError


@pytest.mark.parametrize(
    "message",
    [
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused",
        "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed",
        "failed to connect to all addresses; last error: UNAVAILABLE: Connection reset by peer",
        "connections to all backends failing; last error: Stream removed (Socket closed)",
        "connection attempt timed out before receiving SETTINGS frame",
        "DNS resolution failed for host:8001",
        "empty address list: ",
    ],
)
def test_words_for_a_connection_that_was_never_made(server: tuple[Server, str], message: str) -> None:
    error = _told_as(server, message)
    assert type(error) is ConnectError
    assert str(error) == f"nothing answers at {server[1]}; start a server with `impasto serve` ({message})"


def test_a_server_that_hangs_up_at_once_is_a_connect_error() -> None:
    """It ends in the words of a connection that was lost."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_hang_up, args=(listener,), daemon=True).start()
        url = f"127.0.0.1:{listener.getsockname()[1]}"
        for way in ("generate", "stream", "async generate", "async stream"):
            with pytest.raises(ConnectError, match=f"^nothing answers at {url}"):
                _ask(way, url)
        listener.shutdown(socket.SHUT_RDWR)


CLOSED = "^this client is closed; make a new one$"


def test_a_closed_client_says_so(server: tuple[Server, str]) -> None:
    client = Client(server[1])
    assert client.is_ready()
    client.close()
    asks: list[Callable[[], object]] = [
        lambda: client.generate("a boat"),
        lambda: list(client.stream("a boat")),
        lambda: client.score(b"a", text="a boat"),
    ]
    for ask in asks:
        with pytest.raises(ConnectError, match=CLOSED):
            ask()
    assert not client.is_ready()
    client.close()


def test_a_closed_asyncio_client_says_so(server: tuple[Server, str]) -> None:
    async def ask() -> None:
        client = AsyncClient(server[1])
        assert await client.is_ready()
        await client.close()
        with pytest.raises(ConnectError, match=CLOSED):
            await client.generate("a boat")
        with pytest.raises(ConnectError, match=CLOSED):
            await anext(client.stream("a boat"))
        with pytest.raises(ConnectError, match=CLOSED):
            await client.score(b"a", text="a boat")
        assert not await client.is_ready()
        await client.close()

    asyncio.run(ask())


@pytest.mark.parametrize("way", ["generate", "stream"])
def test_a_client_that_is_closed_amid_a_request_says_so(server: tuple[Server, str], way: str) -> None:
    servicer, url = server
    servicer.handle = _waits_until_cancelled(servicer)
    servicer.handle_stream = _steps_until_cancelled(servicer)
    client = Client(url, timeout=60)
    _soon_after_the_request(servicer, client.close)
    with pytest.raises(ConnectError, match=CLOSED):
        client.generate("a boat") if way == "generate" else list(client.stream("a boat"))


@pytest.mark.parametrize("way", ["generate", "stream"])
def test_an_asyncio_client_that_is_closed_amid_a_request_says_so(server: tuple[Server, str], way: str) -> None:
    servicer, url = server
    servicer.handle = _waits_until_cancelled(servicer)
    servicer.handle_stream = _steps_until_cancelled(servicer)

    async def ask(client: AsyncClient) -> None:
        if way == "generate":
            await client.generate("a boat")
        async for _ in client.stream("a boat"):
            pass

    async def close_meanwhile() -> None:
        client = AsyncClient(url, timeout=60)
        asked = _soon_after_the_request(servicer, lambda: None)
        task = asyncio.create_task(ask(client))
        assert await asyncio.to_thread(asked.wait, 30)
        await client.close()
        with pytest.raises(ConnectError, match=CLOSED):
            await task

    asyncio.run(close_meanwhile())


def test_the_channel_pings_no_more_often_than_impastos_server_allows() -> None:
    """Triton would take it for abuse, and end the connection under the requests on it."""
    options = dict(CHANNEL)
    assert options["grpc.keepalive_time_ms"] >= 10_000
    assert options["grpc.http2.max_pings_without_data"] == 0
    assert "grpc.keepalive_permit_without_calls" not in options
    # A server that comes back is found within a second or so.
    assert all(options[f"grpc.{which}_reconnect_backoff_ms"] <= 1000 for which in ("initial", "min", "max"))


def test_streams_of_one_client_overlap(server: tuple[Server, str]) -> None:
    servicer, url = server
    together = threading.Barrier(4, timeout=10)

    def handle(tensors: Tensors, context: Any) -> Iterator[Tensors]:
        for response in FakeTransport().stream(tensors):
            together.wait()
            yield response

    servicer.handle_stream = handle
    with Client(url, timeout=10) as client, ThreadPoolExecutor(4) as pool:
        alike = pool.map(lambda seed: list(client.stream("x", steps=2, seed=seed))[-1], range(4))
        assert [part.seed for part in alike if isinstance(part, Generation)] == [0, 1, 2, 3]


def test_cancelled_streams_leave_no_thread_behind(server: tuple[Server, str]) -> None:
    servicer, url = server
    servicer.handle_stream = _steps_until_cancelled(servicer)
    with Client(url, timeout=10) as client:

        def cancel_one() -> None:
            servicer.cancelled.clear()
            with closing(client.stream("a red boat")) as parts:
                next(parts)
            assert servicer.cancelled.wait(5)

        cancel_one()
        before = threading.active_count()  # other tests of this process may have left some of theirs
        for _ in range(20):
            cancel_one()
        assert threading.active_count() < before + 10


def test_asyncio_streams_overlap(server: tuple[Server, str]) -> None:
    servicer, url = server
    together = threading.Barrier(3, timeout=10)

    def handle(tensors: Tensors, context: Any) -> Iterator[Tensors]:
        for response in FakeTransport().stream(tensors):
            together.wait()
            yield response

    servicer.handle_stream = handle

    async def last(client: AsyncClient, seed: int) -> Progress | Generation:
        return [part async for part in client.stream("x", steps=2, seed=seed)][-1]

    async def ask() -> list[Progress | Generation]:
        async with AsyncClient(url, timeout=10) as client:
            return await asyncio.gather(*(last(client, seed) for seed in range(3)))

    blocking = Client(transport=FakeTransport())
    assert asyncio.run(ask()) == [blocking.generate("x", steps=2, seed=seed) for seed in range(3)]


@pytest.mark.parametrize("way", ["break", "cancel", "deadline"])
def test_an_asyncio_stream_that_ends_early_cancels_the_request(server: tuple[Server, str], way: str) -> None:
    servicer, url = server
    servicer.handle_stream = _steps_until_cancelled(servicer)

    async def ask() -> None:
        begun = asyncio.Event()

        async def watch(client: AsyncClient) -> None:
            async for _ in client.stream("a red boat", timeout=0.5 if way == "deadline" else 10):
                begun.set()
                if way == "break":
                    break

        async with AsyncClient(url) as client:
            task = asyncio.create_task(watch(client))
            await begun.wait()
            if way == "cancel":
                task.cancel()
            with _expected(way):
                await task
            assert await asyncio.to_thread(servicer.cancelled.wait, 5)

    asyncio.run(ask())


def test_asyncio_errors_of_a_stream_are_the_same(server: tuple[Server, str]) -> None:
    servicer, url = server

    async def ask(url: str) -> None:
        async with AsyncClient(url, timeout=10) as client:
            async for _ in client.stream("a red boat"):
                pass

    servicer.handle_stream = ending(
        grpc.StatusCode.UNAVAILABLE, "RESOURCE_EXHAUSTED: the server is full; try again in 2 s"
    )
    with pytest.raises(ServerFull) as caught:
        asyncio.run(ask(url))
    assert caught.value.retry_after_s == 2
    servicer.handle_stream = lambda tensors, context: ["Request for unknown model: 'stylize_stream' is not found"]
    with pytest.raises(ServerUnavailable, match="does not serve"):
        asyncio.run(ask(url))
    with pytest.raises(ConnectError):
        asyncio.run(ask(_free_url()))


def _score(url: str, asynchronous: bool) -> list[float]:
    async def ask() -> list[float]:
        async with AsyncClient(url) as client:
            return await client.score([b"a\0", b"b"], text="a fish", timeout=2.5)

    if asynchronous:
        return asyncio.run(ask())
    with Client(url) as client:
        return client.score([b"a\0", b"b"], text="a fish", timeout=2.5)


def _soon_after_the_request(servicer: Server, then: Callable[[], None]) -> threading.Event:
    """Have `then` called once the server has a request; the event says that it was."""
    asked = threading.Event()
    handle, handle_stream = servicer.handle, servicer.handle_stream

    def first(tensors: Tensors, context: Any) -> Tensors:
        then()
        asked.set()
        return handle(tensors, context)

    def first_of_stream(tensors: Tensors, context: Any) -> Iterable[Tensors | str]:
        then()
        asked.set()
        return handle_stream(tensors, context)

    servicer.handle, servicer.handle_stream = first, first_of_stream
    return asked


def _ask(way: str, url: str) -> None:
    async def ask() -> None:
        async with AsyncClient(url, timeout=60) as client:
            if way == "async generate":
                await client.generate("a boat")
            async for _ in client.stream("a boat"):
                pass

    if way.startswith("async"):
        return asyncio.run(ask())
    with Client(url, timeout=60) as client:
        if way == "generate":
            client.generate("a boat")
        for _ in client.stream("a boat"):
            pass
    return None


def _lost(url: str) -> str:
    problem = f"the connection to {url} was lost before the answer came"
    return f"{problem}; the server may be restarting: send the request again"


def _told_as(server: tuple[Server, str], message: str, status: Any = grpc.StatusCode.UNAVAILABLE) -> ImpastoError:
    """What a client makes of a request, and of a stream, that end with these words of gRPC's."""
    servicer, url = server
    servicer.handle = refusing(status, message)
    servicer.handle_stream = ending(status, message)
    with Client(url, timeout=60) as client:
        with pytest.raises(ImpastoError) as caught:
            client.generate("a boat")
        with pytest.raises(type(caught.value), match=f"^{re.escape(str(caught.value))}$"):
            list(client.stream("a boat"))
    return caught.value


def _hang_up(listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            listener.accept()[0].close()


def _expected(way: str) -> AbstractContextManager[object]:
    ends: dict[str, AbstractContextManager[object]] = {
        "break": nullcontext(),
        "cancel": pytest.raises(asyncio.CancelledError),
        "deadline": pytest.raises(DeadlineExceeded),
    }
    return ends[way]


def _steps_until_cancelled(servicer: Server) -> StreamHandler:
    """One step, and then nothing until the request ends."""

    def handle(tensors: Tensors, context: Any) -> Iterator[Tensors]:
        ended = threading.Event()
        assert context.add_callback(ended.set)
        try:
            yield from islice(FakeTransport().stream(tensors), 1)
            assert ended.wait(10)
        finally:  # gRPC drops us at the yield when the request ends while the step is sent
            servicer.cancelled.set()

    return handle


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


def test_headers_go_out_with_every_kind_of_request(server: tuple[Server, str]) -> None:
    servicer, url = server
    with Client(url) as client, sending({"traceparent": "00-1-2-01"}):
        client.generate("a red boat")
        list(client.stream("a red boat"))
    asyncio.run(asked_with_headers(url))
    assert [one.get("traceparent") for one in servicer.headers] == ["00-1-2-01"] * 4


async def asked_with_headers(url: str) -> None:
    async with AsyncClient(url) as client:
        with sending({"traceparent": "00-1-2-01"}):
            await client.generate("a red boat")
            assert [part async for part in client.stream("a red boat")]

"""Between the models `stylize_stream` and `stylize`, through a real Triton: floods, bounds, and a part that dies."""

from __future__ import annotations

import io
import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import (  # type: ignore[import-untyped]
    InferenceServerClient,
    service_pb2,
    service_pb2_grpc,
)

from impasto_server.ops.serve import Server, serve
from impasto_server.settings import Settings
from tests.helpers.waiting import eventually
from tests.helpers.wire import Tensor, ask, inputs, ints, outputs, texts

from .test_metrics import metrics
from .test_stream import stream

PATIENCE_S = 120.0
FLOOD, ROOM = 1000, 16
GONE = [
    f"UNAVAILABLE: the process that holds the backbone {what}; try again later" for what in ("ended", "does not answer")
]


@pytest.fixture
def server(toy_bundle: Path, toy_registry: Path) -> Iterator[Server]:
    """One of the test's own, which may break it; with room for 16 requests."""
    settings = Settings(toy_bundle, toy_registry, "onnxruntime", "f32", threads=1, max_requests=ROOM)
    with serve(settings) as server:
        yield server


def photo(side: int) -> Tensor:
    """A PNG that doesn't shrink."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(file, "png")
    return np.array([file.getvalue()], np.object_)


def test_a_flood_of_pictures_on_one_stream_is_answered_and_keeps_nobody_out(server: Server) -> None:
    """Large pictures in and out with refusals between them: what once locked the two processes up for good."""
    ends: SimpleQueue[str] = SimpleQueue()

    def hear(result: Any, error: Any) -> None:
        if error is not None:
            ends.put(str(error.message()).partition(":")[0])
        elif "IMAGE" in outputs(result):
            ends.put("picture")

    asked = {"PROMPT": texts("a boat"), "STEPS": ints(2), "WIDTH": ints(128), "HEIGHT": ints(128)}
    flood = inputs({**asked, "IMAGE": photo(128), "STRENGTH": np.array([1.0], np.float32)})
    client, told = InferenceServerClient(server.grpc_url), Counter[str]()
    client.start_stream(hear)
    try:
        for _ in range(FLOOD):
            client.async_stream_infer("stylize_stream", flood)
        while told.total() < FLOOD:
            told[ends.get(timeout=PATIENCE_S)] += 1
    finally:
        client.stop_stream(cancel_requests=told.total() < FLOOD)
        client.close()
    assert set(told) == {"picture", "RESOURCE_EXHAUSTED"}
    assert told["picture"] >= ROOM
    with InferenceServerClient(server.grpc_url) as other:
        assert ask(other, **asked)["IMAGE"].startswith(b"\x89PNG")
    eventually(lambda: metrics(server)["requests"] == 0, PATIENCE_S)


def test_streams_end_at_once_when_the_process_that_paints_is_gone(server: Server) -> None:
    painting = next(pid for pid in server.stubs if "/stylize/" in Path(f"/proc/{pid}/cmdline").read_text())
    asked = {"PROMPT": texts("a boat"), "STEPS": ints(200), "N": ints(16), "WIDTH": ints(128), "HEIGHT": ints(128)}
    with stream(server, **asked) as messages:
        next(messages)
        os.kill(painting, signal.SIGKILL)
        *_, error = messages
    assert error == GONE[0]

    def nobody_is_there() -> bool:
        with stream(server, **asked) as messages:
            (error,) = messages
        assert error in GONE
        return error == GONE[1]

    eventually(nobody_is_there)


@pytest.mark.parametrize(("timeout_us", "said"), [(-5, "-5"), (604_800_000_001, "604800000001")])
def test_a_timeout_that_is_none_is_refused_by_both_models(toy_server: Server, timeout_us: int, said: str) -> None:
    expected = f"TIMEOUT: {said} is out of range; pass the parameter timeout as 1 to 604800000000 microseconds"
    for model in ("stylize", "stylize_stream"):
        status, message = ended(toy_server, model, timeout_us, PROMPT=texts("a boat"))
        assert status == "INVALID_ARGUMENT"
        assert message.startswith(expected)


def test_a_timeout_of_0_is_none_as_triton_has_it(toy_client: InferenceServerClient) -> None:
    assert ask(toy_client, 0, PROMPT=texts("a boat"), STEPS=ints(1))["IMAGE"].startswith(b"\x89PNG")


def test_a_picture_beyond_the_bound_is_refused_before_it_is_passed_on(toy_server: Server) -> None:
    large = np.array([bytes((32 << 20) + 1)], np.object_)
    for model in ("stylize", "stylize_stream"):
        status, message = ended(toy_server, model, None, PROMPT=texts("a boat"), IMAGE=large)
        assert (status, message) == (
            "INVALID_ARGUMENT",
            "IMAGE: 33554433 bytes is too large; pass at most 33554432 (32 MiB)",
        )


def ended(server: Server, model: str, timeout_us: int | None, /, **tensors: Tensor) -> tuple[str, str]:
    """Status and message of a call that must fail, on either model."""
    request = _request(model, timeout_us, tensors)
    with grpc.insecure_channel(server.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        if model == "stylize_stream":
            (answer,) = stub.ModelStreamInfer(iter([request]), timeout=PATIENCE_S)
            status, _, message = answer.error_message.partition(": ")
            return status, message
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request, timeout=PATIENCE_S)
    return caught.value.code().name, caught.value.details()


def _request(model: str, timeout_us: int | None, tensors: Mapping[str, Tensor]) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model)
    for one in inputs(tensors):
        request.inputs.append(one._get_tensor())
        request.raw_input_contents.append(one._get_content())
    if timeout_us is not None:
        request.parameters["timeout"].int64_param = timeout_us
    return request

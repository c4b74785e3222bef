"""Model `stylize_stream` through a real Triton: steps, previews, and the picture last, over `stylize`'s weights."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import Queue
from threading import Event
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import InferenceServerClient  # type: ignore[import-untyped]

from impasto_server.ops.serve import Server
from tests.helpers.waiting import eventually
from tests.helpers.wire import Tensor, ask, inputs, ints, outputs, refused, texts

from .test_metrics import grown, metrics, steady

Message = dict[str, Any] | str


@contextmanager
def stream(server: Server, timeout_us: int | None = None, /, **tensors: Tensor) -> Iterator[Iterator[Message]]:
    """As `stream_all`; the first value of every output."""
    with stream_all(server, timeout_us, **tensors) as messages:
        yield (one if isinstance(one, str) else {name: values[0] for name, values in one.items()} for one in messages)


@contextmanager
def stream_all(
    server: Server, timeout_us: int | None = None, /, **tensors: Tensor
) -> Iterator[Iterator[dict[str, Tensor] | str]]:
    """What the server sends for one request: every output by name, or an error's text."""
    answers: Queue[tuple[Any, Any]] = Queue()
    finished = Event()

    def messages() -> Iterator[dict[str, Tensor] | str]:
        while True:
            result, error = answers.get(timeout=60)
            if error is not None:
                finished.set()
                yield str(error.message())
                return
            found = outputs(result)
            yield found
            if "IMAGE" in found:
                finished.set()
                return

    client = InferenceServerClient(server.grpc_url)
    client.start_stream(lambda result, error: answers.put((result, error)))
    try:
        client.async_stream_infer("stylize_stream", inputs(tensors), timeout=timeout_us)
        yield messages()
    finally:
        # Cancelled when it has just sent the last response, Triton 2.51 at times counts a request as live for ever.
        client.stop_stream(cancel_requests=not finished.is_set())
        client.close()


def test_steps_then_the_picture_that_stylize_gives(toy_server: Server, toy_client: InferenceServerClient) -> None:
    asked = {"PROMPT": texts("a red boat"), "STEPS": ints(6), "SEED": np.array([7]), "ADAPTER_NAMES": texts("neon")}
    with stream(toy_server, **asked, PREVIEW_EVERY=ints(2)) as messages:
        *steps, last = messages
    assert [(step["STEP"], step["STEPS"], "PREVIEW" in step) for step in steps if isinstance(step, dict)] == [
        (i, 6, i in (2, 4)) for i in range(1, 7)
    ]
    assert isinstance(steps[1], dict)
    assert Image.open(io.BytesIO(steps[1]["PREVIEW"])).size == (8, 8)
    unary = ask(toy_client, **asked)
    assert isinstance(last, dict)
    assert last["IMAGE"] == unary["IMAGE"]
    assert json.loads(last["META"])["adapters"] == json.loads(unary["META"])["adapters"]


def test_both_models_share_one_backbone_and_its_batches(toy_server: Server, toy_client: InferenceServerClient) -> None:
    before = steady(toy_server)
    asked = {"PROMPT": texts("a boat"), "STEPS": ints(200)}
    with ThreadPoolExecutor(6) as pool, stream(toy_server, **asked) as messages:
        pictures = [pool.submit(ask, toy_client, **asked) for _ in range(6)]
        *_, last = messages
    assert isinstance(last, dict)
    assert all(picture.result()["IMAGE"] for picture in pictures)
    after = steady(toy_server)
    assert after["done"] - before["done"] == 7
    assert after["lanes"] - before["lanes"] == 2 * 7 * 200
    assert after["steps"] - before["steps"] < 7 * 200
    assert after["bank_bytes"] == before["bank_bytes"]


def test_leaving_the_stream_stops_the_work(toy_server: Server, toy_client: InferenceServerClient) -> None:
    """Among others, so that there is time to leave."""
    before = steady(toy_server)
    asked = {"PROMPT": texts("a boat"), "STEPS": ints(200)}
    with ThreadPoolExecutor(16) as pool:
        others = [pool.submit(ask, toy_client, **asked) for _ in range(16)]
        with stream(toy_server, **asked, N=ints(16)) as messages:
            next(messages)
    assert all(other.result()["IMAGE"] for other in others)
    assert grown(toy_server, "cancelled", before)
    after = steady(toy_server)
    assert after["cancelled"] - before["cancelled"] == 1
    assert after["lanes"] - before["lanes"] < (16 + 16) * 2 * 200
    assert after["requests"] == 0


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"ADAPTER_NAMES": texts("nein")}, "did you mean 'neon'"),
        ({"PREVIEW_EVERY": ints(201)}, "PREVIEW_EVERY: 201 is out of range; pass 0 to 200"),
        ({"STEPS": ints(0)}, "STEPS: 0 is out of range"),
    ],
)
def test_an_error_ends_the_stream(toy_server: Server, tensors: dict[str, Tensor], said: str) -> None:
    with stream(toy_server, PROMPT=texts("a boat"), **tensors) as messages:
        (error,) = messages
    assert isinstance(error, str)
    assert said in error


def test_a_deadline_ends_it_on_both_models(toy_server: Server, toy_client: InferenceServerClient) -> None:
    with stream(toy_server, 5_000, PROMPT=texts("a boat"), STEPS=ints(200)) as messages:
        *_, error = messages
    assert isinstance(error, str)
    assert "DEADLINE_EXCEEDED: no image within 0.005 s" in error
    tensors = {"PROMPT": texts("a boat"), "STEPS": ints(200)}
    status, message = refused(toy_client, 5_000, **tensors)
    assert (status, message.partition(":")[0]) == ("CANCELLED", "DEADLINE_EXCEEDED")
    assert steady(toy_server)["requests"] == 0


def test_what_neither_model_can_read_is_counted_once_each(
    toy_server: Server, toy_client: InferenceServerClient
) -> None:
    before = steady(toy_server)
    with stream(toy_server, PROMPT=texts(" ")) as messages:
        assert "PROMPT: is missing or blank" in str(next(messages))
    assert refused(toy_client, PROMPT=texts(" "))[0] == "INVALID_ARGUMENT"
    eventually(lambda: metrics(toy_server)["refused"] - before["refused"] >= 2)
    assert steady(toy_server)["refused"] - before["refused"] == 2

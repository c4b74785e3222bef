"""Model `clip_score` of a real server: it says what the torch model says, refuses by name, and isn't there unasked."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import CLIPTokenizer
from tritonclient.grpc import InferenceServerClient  # type: ignore[import-untyped]
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from impasto_server.errors import SetupError
from impasto_server.ops.process import is_child
from impasto_server.ops.serve import Server, ServerDied, serve
from impasto_server.settings import Settings
from tests.helpers import clips
from tests.helpers.pictures import png
from tests.helpers.waiting import eventually
from tests.helpers.wire import Tensor, ask, inputs, texts

TEXTS = ("a red boat", "a blue fish at night")


def noise(count: int) -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 70, 90, 3), dtype=np.uint8))


FILES = [png(pixels) for pixels in noise(2)]
IMAGES = texts(*FILES)


@pytest.fixture(scope="module")
def settings(toy_bundle: Path, toy_registry: Path, scorer_bundle: Path) -> Settings:
    return Settings(toy_bundle, toy_registry, "onnxruntime", "f32", threads=1, scorer=scorer_bundle)


@pytest.fixture(scope="module")
def server(settings: Settings) -> Iterator[Server]:
    with serve(settings) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.grpc_url) as client:
        yield client


def score(client: InferenceServerClient, **tensors: Tensor) -> list[float]:
    found: list[float] = client.infer("clip_score", inputs(tensors), client_timeout=60).as_numpy("SCORE").tolist()
    return found


def test_scores_are_those_of_the_torch_model(client: InferenceServerClient, clip_checkpoint: Path) -> None:
    words = CLIPTokenizer.from_pretrained(clip_checkpoint)(list(TEXTS), padding=True, return_tensors="pt")
    with torch.no_grad():
        found = clips.model(1)(**words, **clips.processor(64)(noise(2), return_tensors="pt"))
    cosines = (found.image_embeds @ found.text_embeds.T).numpy()
    np.testing.assert_allclose(score(client, IMAGE=IMAGES, TEXT=texts(*TEXTS)), np.diag(cosines), atol=1e-5)
    np.testing.assert_allclose(score(client, IMAGE=IMAGES, TEXT=texts(TEXTS[1])), cosines[:, 1], atol=1e-5)
    near = (found.image_embeds @ found.image_embeds.T).numpy()
    np.testing.assert_allclose(score(client, IMAGE=IMAGES, REFERENCE=texts(FILES[1])), near[1], atol=1e-5)


REFUSED: dict[str, tuple[Mapping[str, Tensor], str]] = {
    "no images": ({"IMAGE": texts(), "TEXT": texts("a boat")}, "IMAGE: holds no picture"),
    "neither": ({"IMAGE": IMAGES}, "TEXT: is missing, and so is REFERENCE"),
    "both": ({"IMAGE": IMAGES, "TEXT": texts("a boat"), "REFERENCE": IMAGES}, "REFERENCE: is there as well as TEXT"),
    "counts": ({"IMAGE": IMAGES, "TEXT": texts("a", "b", "c")}, "TEXT: 3 for 2 of IMAGE"),
    "blank": ({"IMAGE": IMAGES, "TEXT": texts(" ")}, "TEXT: is blank"),
    "unreadable": ({"IMAGE": texts(FILES[0], FILES[1][:50]), "TEXT": texts("a boat")}, "IMAGE: picture 2: is a PNG"),
    "too many": ({"IMAGE": texts(*FILES * 33), "TEXT": texts("a boat")}, "IMAGE: 66 pictures are too many"),
    "no IMAGE": ({"TEXT": texts("a boat")}, "IMAGE: holds no picture"),
    # What Triton itself refuses, by config.pbtxt:
    "another input": ({"IMAGE": IMAGES, "PROMPT": texts("a boat")}, "unexpected inference input 'PROMPT'"),
}


@pytest.mark.parametrize(("tensors", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_and_the_server_goes_on(
    tensors: Mapping[str, Tensor], message: str, client: InferenceServerClient
) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        score(client, **tensors)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert len(score(client, IMAGE=IMAGES, TEXT=texts("a boat"))) == 2


def test_those_who_ask_at_once_get_what_each_would_get_alone(client: InferenceServerClient) -> None:
    alone = [score(client, IMAGE=texts(file), TEXT=texts(text)) for file in FILES for text in TEXTS]
    with ThreadPoolExecutor(16) as pool:
        pairs = [(texts(file), texts(text)) for file in FILES for text in TEXTS] * 10
        calls = [pool.submit(score, client, IMAGE=image, TEXT=text) for image, text in pairs]
    np.testing.assert_allclose([call.result() for call in calls], alone * 10, atol=1e-5)


def test_scores_that_would_come_too_late_are_not_sought(client: InferenceServerClient) -> None:
    late = inputs({"IMAGE": IMAGES, "TEXT": texts("a boat")})
    with pytest.raises(
        InferenceServerException, match=r"^.*DEADLINE_EXCEEDED: no scores within 1e-06 s .0 of 2"
    ) as caught:
        client.infer("clip_score", late, timeout=1)
    assert caught.value.status() == "StatusCode.CANCELLED"


def test_it_paints_as_well(client: InferenceServerClient) -> None:
    assert ask(client, PROMPT=texts("a boat"))["IMAGE"]
    assert client.is_model_ready("stylize_stream")


def test_clients_cannot_unload_models(client: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="This protocol is restricted"):
        client.unload_model("stylize")


def test_without_a_scorer_there_is_no_such_model(toy_client: InferenceServerClient) -> None:
    assert not toy_client.is_model_ready("clip_score")
    with pytest.raises(InferenceServerException, match="unknown model: 'clip_score'"):
        score(toy_client, IMAGE=IMAGES, TEXT=texts("a boat"))


def test_its_process_is_watched_and_stopped_with_the_others(settings: Settings) -> None:
    with serve(settings) as server:
        assert len(server.stubs) == 5
        os.kill(server.stubs[-1], signal.SIGKILL)
        eventually(lambda: not is_child(server.stubs[-1], server.pid))
        with pytest.raises(ServerDied, match=f"pid {server.stubs[-1]}"):
            server.check()
    assert not list(Path("/dev/shm").glob(f"{server.shm_prefix}*"))


def test_a_scorer_that_is_none_is_told_at_once(settings: Settings, toy_bundle: Path) -> None:
    with pytest.raises(SetupError, match="^scorer: .*family"), serve(replace(settings, scorer=toy_bundle)):
        pass

"""Styles in stages, dual guidance and style transfer through a real Triton: what the pipeline itself answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import InferenceServerClient  # type: ignore[import-untyped]

from impasto_server.families.offers import FIELDS
from impasto_server.offer import parse
from impasto_server.ops.serve import Server
from impasto_server.pipeline import Pipeline, Result
from impasto_server.settings import Settings
from tests.helpers import toy
from tests.helpers.wire import Tensor, ask, floats, ints, refused, texts

from .test_stream import stream


def picture(colour: str, file_format: str) -> bytes:
    """A coloured square on white, not of the size that is painted."""
    image = Image.new("RGB", (90, 70), "white")
    image.paste(colour, (20, 20, 50, 50))
    file = BytesIO()
    image.save(file, file_format)
    return file.getvalue()


HOUSE = {"PROMPT": texts("a red house"), "SEED": np.array([5]), "STEPS": ints(6)}
STYLED = {**HOUSE, "STYLE": texts("sks03"), "GUIDANCE": texts("dreamstyler")}
TRANSFER = {
    **HOUSE,
    "STYLE": texts("sks03"),
    "SCHEDULER": texts("unipc"),
    "GUIDANCE_SCALE": floats(7.5),
    "IMAGE": texts(picture("red", "jpeg")),
    "STRENGTH": floats(0.8),
    "CONTROL_SCALE": floats(0.8),
}
CASES: dict[str, dict[str, Tensor]] = {
    "styled": STYLED,
    "the code's convention": {**STYLED, "GUIDANCE": texts("dreamstyler-code"), "STYLE_GUIDANCE": floats(2.0)},
    "a style for each stage": {**STYLED, "STYLE": texts("sks03", "my-toy", "sks05"), "CONTENT_GUIDANCE": floats(1.0)},
    "object, style and LoRA": {**STYLED, "PROMPT": texts("a <my-toy> at night"), "ADAPTER_NAMES": texts("neon")},
    "style transfer": TRANSFER,
    "style transfer with depth": {**TRANSFER, "DEPTH": texts(picture("black", "png"))},
    "content alone": {**HOUSE, "IMAGE": texts(picture("blue", "webp")), "CONTROL_SCALE": floats(0.0)},
}


@pytest.fixture(scope="module")
def pipeline(toy_bundle: Path, toy_registry: Path) -> Iterator[Pipeline]:
    """In this process, as the server's."""
    pipeline = Pipeline.load(Settings(toy_bundle, toy_registry, "onnxruntime", "f32", threads=1))
    yield pipeline
    pipeline.close()


def painted(pipeline: Pipeline, tensors: dict[str, Tensor]) -> Result:
    return pipeline.generate(parse(tensors, pipeline.offer, FIELDS))


def facts(meta: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in meta.items() if name != "timings"}


@pytest.mark.parametrize("case", CASES)
def test_both_models_answer_what_the_pipeline_does(
    case: str, pipeline: Pipeline, toy_server: Server, toy_client: InferenceServerClient
) -> None:
    expected = painted(pipeline, CASES[case])
    unary = ask(toy_client, **CASES[case])
    with stream(toy_server, **CASES[case]) as messages:
        *steps, streamed = messages
    assert isinstance(streamed, dict)
    assert len(steps) == expected.meta["steps"]
    assert unary["IMAGE"] == streamed["IMAGE"] == expected.image
    assert facts(json.loads(unary["META"])) == facts(json.loads(streamed["META"])) == facts(expected.meta)


def test_no_two_of_them_are_alike(pipeline: Pipeline) -> None:
    """Or the test above could pass with inputs ignored on both sides."""
    assert len({painted(pipeline, tensors).image for tensors in CASES.values()}) == len(CASES)


def test_in_flight_together_they_are_what_they_are_alone(pipeline: Pipeline, toy_client: InferenceServerClient) -> None:
    """To one 8-bit value: a batch of another size rounds otherwise."""
    requests = [{**tensors, "SEED": np.array([seed])} for seed in range(3) for tensors in CASES.values()]
    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(lambda tensors: ask(toy_client, **tensors)["IMAGE"], requests))
    for tensors, answer in zip(requests, answers, strict=True):
        assert np.abs(pixels(answer) - pixels(painted(pipeline, tensors).image)).max() <= 1


def pixels(file: bytes) -> Tensor:
    return np.asarray(Image.open(BytesIO(file)), np.int64)


def test_an_embedding_registered_under_way_is_found(
    pipeline: Pipeline, toy_registry: Path, toy_server: Server, toy_client: InferenceServerClient
) -> None:
    asked = {**STYLED, "STYLE": texts("newcomer")}
    assert refused(toy_client, **asked)[0] == "NOT_FOUND"
    toy.register(toy_registry, "newcomer", toy.embedding_bytes(11))
    first = ask(toy_client, **asked)["IMAGE"]
    assert first == painted(pipeline, asked).image
    toy.register(toy_registry, "newcomer", toy.embedding_bytes(12))
    with stream(toy_server, **asked) as messages:
        *_, second = messages
    assert isinstance(second, dict)
    assert second["IMAGE"] == painted(pipeline, asked).image != first

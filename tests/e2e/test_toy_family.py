"""A family that the server doesn't come with, through a real Triton: no words, one step, adapters of its own form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import InferenceServerClient  # type: ignore[import-untyped]

from impasto_server.adapters.form import FORMS
from impasto_server.families import FAMILIES
from impasto_server.ops import repository
from impasto_server.ops.serve import Server, serve
from impasto_server.settings import Settings
from tests.helpers import toy
from tests.helpers.wire import ask, floats, refused, texts
from tests.toy_family import bundle
from tests.toy_family.tint import SHADE, TINT

from .test_stream import stream

WARM, DARK = np.array([0.5, 0.1, -0.5]), np.array([-0.2, -0.2, -0.2])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tint")
    toy.register(folder / "registry", "warm", bundle.adapter_bytes(*WARM))
    toy.register(folder / "registry", "dark", bundle.adapter_bytes(*DARK))
    models = bundle.write_repository(folder / "models")
    settings = Settings(
        bundle.write_bundle(folder / "bundle"), folder / "registry", "onnxruntime", "f32", threads=1, max_lanes=4
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "tint", TINT)
        patch.setitem(FORMS, "shade", SHADE)
        patch.setattr(repository, "model_repository", lambda: models)
        with serve(settings) as server:
            yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.grpc_url) as client:
        yield client


def photo() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize(
    ("adapters", "shade"),
    [((), (0, 0, 0)), ((("warm", 1.0),), WARM), ((("warm", 0.5), ("dark", 2.0)), 0.5 * WARM + 2 * DARK)],
    ids=["none", "one", "a mix"],
)
def test_a_photo_comes_back_in_the_shades_of_its_adapters(
    adapters: tuple[tuple[str, float], ...], shade: Any, client: InferenceServerClient
) -> None:
    names = {"ADAPTER_NAMES": texts(*dict(adapters)), "ADAPTER_WEIGHTS": floats(*dict(adapters).values())}
    answer = ask(client, IMAGE=texts(png(photo())), **(names if adapters else {}))
    found = np.asarray(Image.open(BytesIO(answer["IMAGE"])), np.float64)
    expected = np.clip(photo() + 127.5 * np.array(shade, np.float64), 0, 255)
    assert np.abs(found - expected).max() <= 1


def test_its_meta_says_one_step_and_its_own_sampler(client: InferenceServerClient) -> None:
    meta = json.loads(ask(client, IMAGE=texts(png(photo())))["META"])
    assert (meta["steps"], meta["scheduler"], meta["width"], meta["height"]) == (1, "once", 64, 48)
    assert meta["warnings"] == []


def test_its_step_is_streamed_before_the_picture(server: Server, client: InferenceServerClient) -> None:
    with stream(server, IMAGE=texts(png(photo()))) as messages:
        step, last = messages
    assert isinstance(step, dict)
    assert isinstance(last, dict)
    assert (step["STEP"], step["STEPS"]) == (1, 1)
    assert last["IMAGE"] == ask(client, IMAGE=texts(png(photo())))["IMAGE"]


def test_it_has_no_words(client: InferenceServerClient) -> None:
    status, message = refused(client, PROMPT=texts("a red boat"), IMAGE=texts(png(photo())))
    assert (status, message.partition("] ")[2] or message) == (
        "INVALID_ARGUMENT",
        "PROMPT: means nothing to a tint backbone; leave it out",
    )


def test_what_it_cannot_do_without_is_named(client: InferenceServerClient) -> None:
    status, message = refused(client, ADAPTER_NAMES=texts("warm"))
    assert status == "INVALID_ARGUMENT"
    assert "IMAGE: is missing; pass the photo that is to be tinted" in message


def test_the_catalogue_says_what_it_knows(client: InferenceServerClient) -> None:
    found = json.loads(client.infer("catalogue", []).as_numpy("CATALOGUE").item())
    (tint,) = found["bundles"]
    assert (tint["name"], tint["family"]) == ("tint", "tint")
    assert "PROMPT" not in tint["fields"]
    assert {one["name"]: one["fits"] for one in found["adapters"]} == {"warm": ["tint"], "dark": ["tint"]}

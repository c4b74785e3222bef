"""A family that the server doesn't come with, through a real Triton: no words, one step, a folder and an entry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import InferenceServerClient  # type: ignore[import-untyped]

from impasto_server.families import FAMILIES
from impasto_server.ops import repository
from impasto_server.ops.serve import serve
from impasto_server.settings import Settings
from tests.helpers import toy
from tests.helpers.wire import ask, floats, refused, texts
from tests.toy_family import bundle
from tests.toy_family.tint import TINT


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceServerClient]:
    folder = tmp_path_factory.mktemp("tint")
    toy.register(folder / "registry", "swap", bundle.adapter_bytes())
    models = bundle.write_repository(folder / "models")
    settings = Settings(
        bundle.write_bundle(folder / "bundle"), folder / "registry", "onnxruntime", "f32", threads=1, max_lanes=4
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "tint", TINT)
        patch.setattr(repository, "model_repository", lambda: models)
        with serve(settings) as server, InferenceServerClient(server.grpc_url) as client:
            yield client


def photo() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def test_a_photo_comes_back_in_the_colours_of_its_adapter(client: InferenceServerClient) -> None:
    plain = ask(client, IMAGE=texts(png(photo())))
    swapped = ask(client, IMAGE=texts(png(photo())), ADAPTER_NAMES=texts("swap"))
    halved = ask(client, IMAGE=texts(png(photo())), ADAPTER_NAMES=texts("swap"), ADAPTER_WEIGHTS=floats(0.5))
    red, green, blue = (photo().astype(np.float64)[..., channel] for channel in range(3))
    expected = {
        "plain": np.stack([red, green, blue], axis=-1),
        "swapped": np.stack([blue, green, red], axis=-1),
        "halved": np.stack([(red + blue) / 2, green, (red + blue) / 2], axis=-1),
    }
    for name, answer in (("plain", plain), ("swapped", swapped), ("halved", halved)):
        found = np.asarray(Image.open(BytesIO(answer["IMAGE"])), np.float64)
        assert np.abs(found - expected[name]).max() <= 1, name


def test_its_meta_says_one_step_and_its_own_sampler(client: InferenceServerClient) -> None:
    meta = json.loads(ask(client, IMAGE=texts(png(photo())))["META"])
    assert (meta["steps"], meta["scheduler"], meta["width"], meta["height"]) == (1, "once", 64, 48)
    assert meta["warnings"] == []


def test_it_has_no_words(client: InferenceServerClient) -> None:
    status, message = refused(client, PROMPT=texts("a red boat"), IMAGE=texts(png(photo())))
    assert (status, message.partition("] ")[2] or message) == (
        "INVALID_ARGUMENT",
        "PROMPT: means nothing to a tint backbone; leave it out",
    )


def test_what_it_cannot_do_without_is_named(client: InferenceServerClient) -> None:
    status, message = refused(client, ADAPTER_NAMES=texts("swap"))
    assert status == "INVALID_ARGUMENT"
    assert "IMAGE: is missing; pass the photo that is to be tinted" in message

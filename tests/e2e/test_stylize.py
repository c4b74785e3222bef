"""Photos in styles through a real Triton, beside a bundle of another family in the same server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import InferenceServerClient  # type: ignore[import-untyped]

from impasto_client import AsyncClient, Client
from impasto_server.ops.serve import Server, serve
from impasto_server.settings import Settings
from tests.helpers import toy, toy_stylizer
from tests.helpers.pictures import png
from tests.helpers.wire import Tensor, ask, floats, ints, refused, texts

from .test_stream import stream

PHOTO = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
FILE = png(PHOTO)
RED = np.full((32, 32, 3), (255, 0, 0), np.uint8)
INK, MOSAIC = toy_stylizer.style(1), toy_stylizer.style(2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("stylize")
    toy.register(folder / "registry", "ink", toy_stylizer.style_bytes(INK))
    toy.register(folder / "registry", "mosaic", toy_stylizer.style_bytes(MOSAIC))
    toy.register(folder / "registry", "foreign", toy_stylizer.style_bytes(INK, "other-net", "9" * 64))
    toy.register(folder / "registry", "neon", toy.adapter_bytes(1))
    bundles = {
        "photo": toy_stylizer.write_bundle(folder / "photo"),
        "words": toy.write_bundle(folder / "words"),
    }
    with serve(Settings(bundles, folder / "registry", "onnxruntime", "f32", threads=1, max_lanes=4)) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.grpc_url) as client:
        yield client


def picture(answer: dict[str, Any]) -> NDArray[np.float64]:
    return np.asarray(Image.open(BytesIO(answer["IMAGE"])), np.float64)


def painted(vector: toy_stylizer.Array) -> NDArray[np.float64]:
    return 255 * toy_stylizer.painted(PHOTO, vector)


@pytest.mark.parametrize(
    ("tensors", "vector"),
    [
        ({"ADAPTER_NAMES": texts("ink")}, INK),
        ({"ADAPTER_NAMES": texts("ink", "mosaic"), "ADAPTER_WEIGHTS": floats(0.25, 0.75)}, INK / 4 + 3 * MOSAIC / 4),
        ({"ADAPTER_NAMES": texts("ink"), "STRENGTH": floats(0.5)}, (INK + toy_stylizer.NEUTRAL) / 2),
        ({"STYLE_IMAGES": texts(png(RED))}, toy_stylizer.predicted(np.array([1.0, 0, 0]))),
    ],
    ids=["a style", "a mix", "half as strong", "a picture's"],
)
def test_a_photo_comes_back_in_its_style(
    tensors: dict[str, Tensor], vector: toy_stylizer.Array, client: InferenceServerClient
) -> None:
    found = picture(ask(client, IMAGE=texts(FILE), **tensors))
    assert np.abs(found - painted(vector)).max() < 0.6


def test_all_else_that_can_be_said_of_a_photo(client: InferenceServerClient) -> None:
    mask = np.zeros((64, 80), np.uint8)
    mask[:32] = 255
    said = {
        "ADAPTER_NAMES": texts("ink"),
        "MASKS": texts(png(mask)),
        "DETAIL": floats(0.5),
        "PRESERVE_COLOR": np.array([True]),
        "LONG_SIDE": ints(40),
        "FORMAT": texts("webp"),
        "MODEL": texts("photo"),
    }
    answer = ask(client, IMAGE=texts(FILE), **said)
    small = np.asarray(Image.fromarray(PHOTO).resize((40, 32), Image.Resampling.LANCZOS))
    found = picture(answer)
    assert found.shape == small.shape
    assert np.abs(found[20:] - small[20:]).max() < 3, "where the mask is black the photo stays"
    assert np.abs(found[:12] - small[:12]).max() > 10
    meta = json.loads(answer["META"])
    assert (meta["width"], meta["height"], meta["long_side"], meta["detail"]) == (40, 32, 40, 0.5)
    assert meta["model"] == "photo"


def test_its_pass_is_streamed_before_the_picture(server: Server, client: InferenceServerClient) -> None:
    with stream(server, IMAGE=texts(FILE), ADAPTER_NAMES=texts("ink")) as messages:
        step, last = messages
    assert isinstance(step, dict)
    assert isinstance(last, dict)
    assert (step["STEP"], step["STEPS"]) == (1, 1)
    assert last["IMAGE"] == ask(client, IMAGE=texts(FILE), ADAPTER_NAMES=texts("ink"))["IMAGE"]


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({}, "IMAGE: is missing; pass the photo to paint"),
        ({"IMAGE": texts(FILE)}, "ADAPTER_NAMES: is missing, and 'toy-stylizer' has no style of its own"),
        (
            {"IMAGE": texts(FILE), "ADAPTER_NAMES": texts("foreign")},
            "'foreign' belongs to the network 'other-net', but",
        ),
        (
            {"IMAGE": texts(FILE), "ADAPTER_NAMES": texts("neon")},
            "'neon' is for a diffusion backbone, but 'toy-stylizer'",
        ),
        ({"IMAGE": texts(FILE), "STYLE_IMAGES": texts(*[FILE] * 17)}, "STYLE_IMAGES: 17 files; pass at most 8"),
        (
            {"IMAGE": texts(FILE), "ADAPTER_NAMES": texts("ink"), "MASKS": texts(png(PHOTO[:8]))},
            "MASKS: one is 80 x 8, but the photo is 80 x 64; pass masks of the photo's own size",
        ),
        (
            {"IMAGE": texts(FILE), "ADAPTER_NAMES": texts("ink"), "DETAIL": floats(np.nan)},
            "DETAIL: nan is out of range",
        ),
        ({"IMAGE": texts(FILE), "PROMPT": texts("a boat")}, "PROMPT: means nothing to a feedforward backbone"),
        (
            {"MODEL": texts("words"), "PROMPT": texts("a boat"), "MASKS": texts(FILE)},
            "MASKS: means nothing to a diffusion backbone; leave it out",
        ),
    ],
)
def test_bad_input_is_refused_by_name(tensors: dict[str, Tensor], said: str, client: InferenceServerClient) -> None:
    status, message = refused(client, **tensors)
    assert status == "INVALID_ARGUMENT"
    assert said in message


def test_the_catalogue_says_what_its_styles_are(client: InferenceServerClient) -> None:
    found = json.loads(client.infer("catalogue", []).as_numpy("CATALOGUE").item())
    photo, words = found["bundles"]
    assert (photo["name"], photo["family"]) == ("photo", "feedforward")
    assert (photo["vectors"], photo["predictor"]) == (toy_stylizer.NUMBERS, True)
    assert photo["photo"] == {"long_side": 8192, "max_pixels": 24 << 20}
    assert (photo["rules"], photo["samplers"]) == ([], [])
    assert {"IMAGE", "STYLE_IMAGES", "MASKS", "DETAIL", "LONG_SIDE", "PRESERVE_COLOR", "STRENGTH"} <= {*photo["fields"]}
    assert not {"PROMPT", "STEPS", "WIDTH", "GUIDANCE", "SEED"} & {*photo["fields"]}
    assert not {"STYLE_IMAGES", "MASKS"} & {*words["fields"]}
    fits = {one["name"]: one["fits"] for one in found["adapters"]}
    assert fits == {"ink": ["photo"], "mosaic": ["photo"], "foreign": [], "neon": ["words"]}


def test_both_families_paint_at_once_as_each_does_alone(client: InferenceServerClient) -> None:
    photo = {"IMAGE": texts(FILE), "ADAPTER_NAMES": texts("ink")}
    words = {"MODEL": texts("words"), "PROMPT": texts("a red boat"), "SEED": np.array([3], np.int64)}
    alone = [ask(client, **one)["IMAGE"] for one in (photo, words)]
    with ThreadPoolExecutor(8) as users:
        crowd = list(users.map(lambda one: ask(client, **one)["IMAGE"], [photo, words] * 8))
    assert crowd == alone * 8


FILM = [np.roll(PHOTO, 3 * number, axis=1) for number in range(9)]


def assert_film(found: list[NDArray[np.uint8]]) -> None:
    """Frames that are shifted, wherever a batch put them, are painted each as it is."""
    assert len(found) == len(FILM)
    for frame, painting in zip(FILM, found, strict=True):
        assert np.abs(painting - 255 * toy_stylizer.painted(frame, INK)).max() < 1.01


def test_frames_come_back_in_order(server: Server) -> None:
    with Client(server.grpc_url) as client:
        assert_film(list(client.stylize_frames(FILM, "ink", smooth=0, in_flight=4)))


def test_frames_come_back_in_order_for_asyncio_too(server: Server) -> None:
    async def film() -> list[NDArray[np.uint8]]:
        async with AsyncClient(server.grpc_url) as client:
            return [frame async for frame in client.stylize_frames(FILM, "ink", smooth=0, in_flight=4)]

    assert_film(asyncio.run(film()))


def test_a_film_may_be_left(server: Server) -> None:
    async def first() -> NDArray[np.uint8]:
        async with (
            AsyncClient(server.grpc_url) as client,
            aclosing(client.stylize_frames(FILM, "ink", smooth=0, in_flight=4)) as film,
        ):
            async for frame in film:
                return frame
        raise AssertionError("it has frames")

    with Client(server.grpc_url) as client:
        film = client.stylize_frames(FILM, "ink", smooth=0, in_flight=4)
        before = next(film)
        film.close()
        assert asyncio.run(first()).tolist() == before.tolist()
        assert_film(list(client.stylize_frames(FILM, "ink", smooth=0)))

"""The gateway in front of a real Triton: what OpenAI's own client gets, and what the server sees of it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types import ImagesResponse

from impasto_client import Client
from impasto_client.marks import bare, read
from impasto_gateway.app import create_app
from impasto_gateway.settings import GatewaySettings
from impasto_server.ops.serve import Server, serve
from impasto_server.settings import Settings
from impasto_server.values import MAX_CANDIDATES, MAX_STEPS
from tests.helpers import toy, toy_stylizer
from tests.helpers.gateways import connected, listening, png, request_bytes, size_of
from tests.helpers.waiting import PATIENCE_S, eventually

from .test_metrics import metrics, steady

PHOTO = png(80, 64)
LONG = {"prompt": "a red boat", "num_inference_steps": MAX_STEPS, "n": MAX_CANDIDATES}
ROWS = 2 * MAX_CANDIDATES  # of a step of LONG: with its prompt, and without
BEYOND = MAX_STEPS // 4  # steps that may be run, or be told late, when a caller leaves a machine that is busy


@dataclass(frozen=True)
class Gateway:
    """One in front of a server."""

    server: Server
    url: str

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)


@contextmanager
def before(settings: Settings) -> Iterator[Gateway]:
    """A server, and a gateway before it."""
    with ExitStack() as stack:
        server = stack.enter_context(serve(settings))
        app = create_app(GatewaySettings((server.grpc_url,)))
        yield Gateway(server, stack.enter_context(listening(app)))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """With a bundle for words, which is the default, and one for photos."""
    folder = tmp_path_factory.mktemp("gateway")
    toy.register(folder / "registry", "neon", toy.adapter_bytes(1))
    toy.register(folder / "registry", "sks03", toy.embedding_bytes(3))
    toy.register(folder / "registry", "ink", toy_stylizer.style_bytes(toy_stylizer.style(1)))
    toy.register(folder / "registry", "mosaic", toy_stylizer.style_bytes(toy_stylizer.style(2)))
    bundles = {"words": toy.write_bundle(folder / "words"), "photo": toy_stylizer.write_bundle(folder / "photo")}
    with before(Settings(bundles, folder / "registry", "onnxruntime", "f32", threads=1)) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[OpenAI]:
    with gateway.client() as client:
        yield client


@pytest.fixture(scope="module")
def direct(gateway: Gateway) -> Iterator[Client]:
    """A client of the server itself."""
    with Client(gateway.server.grpc_url) as client:
        yield client


def files(answer: ImagesResponse) -> list[bytes]:
    assert answer.data is not None
    return [base64.b64decode(one.b64_json or "") for one in answer.data]


def test_the_picture_is_the_one_that_the_server_paints(client: OpenAI, direct: Client) -> None:
    extra = {"seed": 7, "num_inference_steps": 4, "adapters": {"neon": 0.5}, "metadata": False}
    answer = client.images.generate(prompt="a red boat", extra_body=extra)
    assert files(answer) == [direct.generate("a red boat", seed=7, steps=4, adapters={"neon": 0.5}).data]


def test_four_pictures_with_their_seeds(client: OpenAI, direct: Client) -> None:
    answer = client.images.generate(prompt="a red boat", n=4, size="64x32", extra_body={"seed": 7, "steps": 2})
    painted = direct.generate("a red boat", n=4, seed=7, steps=2, width=64, height=32).candidates
    assert answer.size == "64x32"
    assert [bare(one) for one in files(answer)] == [bare(one.data) for one in painted]
    assert [one.model_extra and one.model_extra["seed"] for one in answer.data or ()] == [7, 8, 9, 10]


def test_a_stream_shows_three_previews_and_then_the_picture(client: OpenAI, direct: Client) -> None:
    extra = {"seed": 7, "steps": 8, "metadata": False}
    stream = client.images.generate(prompt="a red boat", stream=True, partial_images=3, extra_body=extra)
    *partials, last = list(stream)
    assert [one.model_extra and one.model_extra["step"] for one in partials] == [2, 4, 6]
    assert len({one.b64_json for one in partials}) == 3
    assert {size_of(base64.b64decode(one.b64_json)) for one in partials} == {("PNG", 64, 64)}
    assert base64.b64decode(last.b64_json) == direct.generate("a red boat", seed=7, steps=8).data


def test_an_edit_begins_with_the_picture(client: OpenAI, direct: Client) -> None:
    extra = {"seed": 7, "steps": 4, "strength": 0.5, "metadata": False}
    answer = client.images.edit(image=png(64, 64), prompt="a red boat", extra_body=extra)
    assert files(answer) == [direct.generate("a red boat", image=png(64, 64), seed=7, steps=4, strength=0.5).data]


def test_a_photo_is_painted_in_two_styles(client: OpenAI, direct: Client) -> None:
    extra = {"style": {"ink": 0.6, "mosaic": 0.4}, "metadata": False}
    answer = client.images.edit(image=PHOTO, prompt="", model="photo", extra_body=extra)
    assert files(answer) == [direct.stylize(PHOTO, {"ink": 0.6, "mosaic": 0.4}, model="photo").data]


def test_who_can_only_name_a_model_picks_a_style(client: OpenAI) -> None:
    assert {"words", "photo", "words:neon", "words:sks03", "photo:ink"} <= {one.id for one in client.models.list()}
    for model, image in (("words:neon", None), ("words:sks03", None), ("photo:ink", PHOTO)):
        answer = (
            client.images.generate(prompt="a red boat", model=model, extra_body={"steps": 2})
            if image is None
            else client.images.edit(image=image, prompt="", model=model)
        )
        mark = read(files(answer)[0])
        assert mark is not None
        assert [one.name for one in mark.adapters] == [model.partition(":")[2]]


@pytest.mark.parametrize(
    ("said", "status", "param"),
    [
        ({"num_inference_steps": 1000}, 400, "num_inference_steps"),
        ({"size": "65x64"}, 400, "size"),
        ({"guidance_scale": 99}, 400, "guidance_scale"),
        ({"adapters": {"neon": 99}}, 400, "adapters"),
        ({"prompt": "a boat <lora:neon:99>"}, 400, "prompt"),
        ({"adapters": "unknown"}, 404, "adapters"),
        ({"adapters": "../neon"}, 404, "adapters"),
        ({"style": "ink"}, 400, "style"),
        ({"model": "unknown"}, 404, "model"),
        ({"rerank": "text"}, 400, "rerank"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_servers_refusals_have_their_status_and_the_callers_word(
    client: OpenAI, said: dict[str, object], status: int, param: str | None, stream: bool
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.images.generate(prompt="a red boat", stream=stream, extra_body=said)
    assert (caught.value.status_code, caught.value.param) == (status, param), caught.value.message
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_a_picture_that_is_none_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.edit(image=png(64, 64)[:-20], prompt="a red boat")
    assert caught.value.param == "image"


def test_a_deadline_that_passes_is_told(client: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.images.generate(prompt="a red boat", extra_body={**LONG, "timeout": 0.05})
    assert (caught.value.status_code, caught.value.code) == (504, "deadline_exceeded")
    with pytest.raises(openai.APIError) as late:
        list(client.images.generate(prompt="a red boat", stream=True, extra_body={**LONG, "timeout": 0.05}))
    assert late.value.code == "deadline_exceeded"


@pytest.fixture(scope="module")
def slow(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """On which LONG takes minutes; it takes a single request."""
    with before(Settings(bundle, tmp_path_factory.mktemp("slow") / "registry", max_requests=1)) as gateway:
        yield gateway


def test_a_caller_who_leaves_a_stream_stops_its_lanes(slow: Gateway) -> None:
    then, said = steady(slow.server), {**LONG, "stream": True, "progress": True}
    with httpx.stream("POST", f"{slow.url}/v1/images/generations", json=said, timeout=PATIENCE_S) as answer:
        lines = (line for line in answer.iter_lines() if not line.startswith(":"))
        assert next(lines) == "event: image_generation.progress"
        seen = json.loads(next(lines).removeprefix("data: "))["step"]
    check_cancelled(slow, then, seen)


def test_a_caller_who_leaves_while_waiting_stops_its_lanes(slow: Gateway) -> None:
    then = steady(slow.server)
    with connected(slow.url) as connection:
        connection.sendall(request_bytes(json.dumps(LONG).encode()))
        eventually(lambda: metrics(slow.server)["lanes"] > then["lanes"])
        seen = steps_since(then, metrics(slow.server))
    check_cancelled(slow, then, seen)


def check_cancelled(gateway: Gateway, then: Mapping[str, float], seen: float) -> None:
    """One request was cancelled since, soon after the step `seen`, and nothing more is done for it."""
    eventually(lambda: metrics(gateway.server)["cancelled"] == then["cancelled"] + 1)
    now = steady(gateway.server)
    assert (now["requests"], now["done"]) == (0, then["done"])
    assert seen <= steps_since(then, now) <= seen + BEYOND


def steps_since(then: Mapping[str, float], now: Mapping[str, float]) -> float:
    """How many steps of LONG were run, by the rows of all passes."""
    return (now["lanes"] - then["lanes"]) / ROWS


def test_a_full_server_says_when_to_try_again(slow: Gateway) -> None:
    with slow.client() as client, connected(slow.url) as connection:
        connection.sendall(request_bytes(json.dumps(LONG).encode()))
        eventually(lambda: metrics(slow.server)["requests"] == 1)
        with pytest.raises(openai.RateLimitError) as caught:
            client.images.generate(prompt="a red boat")
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert caught.value.response.headers["x-should-retry"] == "true"


def test_nothing_behind_the_gateway_is_a_503() -> None:
    with listening(create_app(GatewaySettings(("127.0.0.1:1",)))) as url:
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/ready").status_code == 503
        answer = httpx.post(f"{url}/v1/images/generations", json={"prompt": "a red boat"})
    assert (answer.status_code, answer.headers["x-should-retry"]) == (503, "true")


@pytest.mark.parametrize(
    ("said", "status", "param", "words"),
    [
        ({"model": "photo"}, 400, "style", "GET /v1/adapters"),
        ({"model": "photo", "style": "none:0.5"}, 404, "style", "none"),
        ({"model": "photo", "style": "ink", "adapters": "mosaic:nan"}, 400, "adapters", "NAME:0.5"),
        ({"model": "photo", "style": "neon:0.5"}, 400, "style", "neon"),
        ({"model": "words", "prompt": "a boat", "upscale": "true"}, 400, "upscale", "no second stage"),
        ({"model": "words", "prompt": "a boat", "adapters": "none"}, 404, "adapters", "none"),
    ],
)
def test_refusals_are_in_the_callers_words(
    gateway: Gateway, said: dict[str, str], status: int, param: str, words: str
) -> None:
    answer = httpx.post(f"{gateway.url}/v1/images/edits", data=said, files={"image": PHOTO}, timeout=PATIENCE_S)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), error
    assert words in error["message"]
    assert not re.search(r"`impasto|ADAPTER_NAMES|BASE_IMAGE", error["message"])


def test_a_style_is_weighed_as_in_commands(gateway: Gateway) -> None:
    said = {"model": "photo", "style": "ink:0.5"}
    answer = httpx.post(f"{gateway.url}/v1/images/edits", data=said, files={"image": PHOTO}, timeout=PATIENCE_S)
    assert answer.json()["meta"]["adapters"][0]["weight"] == 0.5

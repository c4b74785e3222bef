"""OpenAI's own client library, unmodified, against a gateway over a network."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Generator, Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from impasto_client import FakeTransport
from impasto_client.errors import (
    AdapterNotFound,
    ConnectError,
    DeadlineExceeded,
    ImpastoError,
    InvalidRequest,
    ServerError,
    ServerFull,
    ServerUnavailable,
)
from impasto_client.wire import Tensors
from tests.helpers.gateways import CATALOGUE, app_over, fake, listening, png, size_of


@pytest.fixture(scope="module")
def transport() -> FakeTransport:
    return fake(warnings=["the prompt was cut"])


@pytest.fixture(scope="module")
def url(transport: FakeTransport) -> Iterator[str]:
    with listening(app_over(transport)) as url:
        yield f"{url}/v1"


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=url, api_key="none") as client:
        yield client


def shown(text: str | None) -> tuple[str | None, int, int]:
    """Format and size of a picture in base64."""
    assert text is not None
    return size_of(base64.b64decode(text))


def test_a_prompt_becomes_a_picture(client: OpenAI) -> None:
    answer = client.images.generate(prompt="a red boat", model="studio", size="128x64", output_format="jpeg")
    assert answer.data is not None
    assert shown(answer.data[0].b64_json) == ("JPEG", 128, 64)
    assert (answer.size, answer.output_format, answer.background) == ("128x64", "jpeg", "opaque")
    assert answer.created > 0
    assert answer._request_id


def test_seeds_and_warnings_come_back(client: OpenAI) -> None:
    answer = client.images.generate(prompt="a red boat", n=4, quality="hd", extra_body={"seed": 7})
    assert answer.data is not None
    assert [one.model_extra and one.model_extra["seed"] for one in answer.data] == [7, 8, 9, 10]
    assert answer.model_extra is not None
    assert answer.model_extra["warnings"] == ["quality: it has no effect here", "the prompt was cut"]
    assert answer.model_extra["meta"]["engine"] == "fake"


def test_what_openai_has_no_word_for_goes_into_extra_body(client: OpenAI, transport: FakeTransport) -> None:
    extra = {"adapters": {"neon": 0.5}, "num_inference_steps": 9, "guidance_scale": 2, "negative_prompt": "fog"}
    client.images.generate(prompt="a red boat <lora:glass:0.25>", extra_body=extra)
    tensors = transport.requests[-1]
    assert tensors["PROMPT"].tolist() == [b"a red boat"]
    assert tensors["ADAPTER_NAMES"].tolist() == [b"neon", b"glass"]
    assert tensors["ADAPTER_WEIGHTS"].tolist() == [0.5, 0.25]
    assert [tensors[name].item() for name in ("STEPS", "GUIDANCE_SCALE", "NEGATIVE_PROMPT")] == [9, 2.0, b"fog"]


def test_a_picture_streams_with_three_previews(client: OpenAI) -> None:
    events = list(client.images.generate(prompt="a red boat", stream=True, partial_images=3, output_format="webp"))
    *partials, completed = events
    shown_at = [one.partial_image_index for one in partials if one.type == "image_generation.partial_image"]
    assert shown_at == [0, 1, 2]
    assert completed.type == "image_generation.completed"
    assert [shown(event.b64_json) for event in events] == [("WEBP", 128, 128)] * 4


def test_a_picture_is_edited(client: OpenAI, transport: FakeTransport) -> None:
    answer = client.images.edit(image=png(), prompt="a red boat", extra_body={"strength": 0.5, "seed": 7})
    assert answer.data is not None
    assert answer.data[0].model_extra == {"seed": 7}
    assert transport.requests[-1]["IMAGE"].tolist() == [png()]
    assert transport.requests[-1]["STRENGTH"].item() == 0.5


def test_a_photo_is_stylised_with_the_style_of_a_second_picture(client: OpenAI, transport: FakeTransport) -> None:
    pictures = [("photo.png", png(96, 48)), ("painting.png", png(colour="blue"))]
    answer = client.images.edit(image=pictures, prompt="", model="stylizer", mask=png(96, 48, "white"))
    assert answer.data is not None
    assert shown(answer.data[0].b64_json) == ("PNG", 96, 48)
    tensors = transport.requests[-1]
    assert "PROMPT" not in tensors
    assert [len(tensors[name]) for name in ("IMAGE", "STYLE_IMAGES", "MASKS")] == [1, 1, 1]


def test_an_edit_streams(client: OpenAI) -> None:
    events = list(client.images.edit(image=png(), prompt="a red boat", stream=True, partial_images=1))
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]


def test_models_are_listed_with_their_styles(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[:2] == ["studio", "stylizer"]
    assert {"studio:neon", "studio:sks03", "stylizer:starry"} < {*names}
    assert client.models.retrieve("studio:neon").model_extra == {
        "parent": "studio", "kind": "lora", "trigger": "neon lights", "prompt": "", "rank": 4, "stages": 1,
        "adapts": ["base"], "digest": "1" * 64,
    }  # fmt: skip


def test_the_async_client_paints_edits_and_streams(url: str) -> None:
    async def painted() -> tuple[int, int, list[str]]:
        async with AsyncOpenAI(base_url=url, api_key="none") as client:
            whole, edited, stream = await asyncio.gather(
                client.images.generate(prompt="a red boat", n=4),
                client.images.edit(image=png(), prompt="a red boat"),
                client.images.generate(prompt="a red boat", stream=True, partial_images=2),
            )
            assert whole.data is not None
            assert edited.data is not None
            return len(whole.data), len(edited.data), [event.type async for event in stream]

    many, one, types = asyncio.run(painted())
    assert (many, one) == (4, 1)
    assert types == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]


def test_a_fault_names_the_field_in_the_callers_word(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="a red boat", extra_body={"num_inference_steps": "many"})
    assert caught.value.param == "num_inference_steps"
    assert caught.value.code == "invalid_value"
    assert caught.value.type == "invalid_request_error"
    assert "num_inference_steps: 'many' is not a whole number" in str(caught.value)


def test_an_unknown_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(prompt="a red boat", model="stable")
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


# What a server answers with -> what the SDK raises, and how often it asked: it tries twice more where that may help.
FAULTS: list[tuple[ImpastoError, type[openai.APIStatusError], int, int]] = [
    (InvalidRequest("STEPS: 500 is too many; pass 200", "STEPS"), openai.BadRequestError, 400, 1),
    (AdapterNotFound("ADAPTER_NAMES: no 'x'", "ADAPTER_NAMES"), openai.NotFoundError, 404, 1),
    (ServerFull("the server is full", 0.01), openai.RateLimitError, 429, 3),
    (ServerError("INTERNAL: it broke"), openai.InternalServerError, 500, 1),
    (ServerUnavailable("it is stopping"), openai.InternalServerError, 503, 3),
    (ConnectError("nothing answers"), openai.InternalServerError, 503, 3),
    (DeadlineExceeded("it took too long"), openai.InternalServerError, 504, 1),
]


class Failing(FakeTransport):
    """Has a catalogue, and answers the first requests for pictures with an error."""

    def __init__(self, failure: ImpastoError, times: int = 100) -> None:
        super().__init__(catalogue=CATALOGUE)
        self.failure, self.times = failure, times

    def infer(self, tensors: Tensors, timeout_s: float | None = None) -> Tensors:
        answer = super().infer(tensors, timeout_s)
        if len(self.requests) > self.times:
            return answer
        raise self.failure


@pytest.mark.parametrize(("error", "raised", "status", "asked"), FAULTS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("stream", [False, True])
def test_each_class_of_error(
    error: ImpastoError, raised: type[openai.APIStatusError], status: int, asked: int, stream: bool
) -> None:
    transport = Failing(error)
    with (
        listening(app_over(transport)) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none") as client,
        pytest.raises(raised) as caught,
    ):
        client.images.generate(prompt="a red boat", stream=stream)
    assert caught.value.status_code == status
    assert caught.value.request_id
    assert len(transport.requests) == asked


def test_a_retry_brings_the_picture_when_there_is_room_again() -> None:
    transport = Failing(ServerFull("the server is full", 0.01), times=1)
    with listening(app_over(transport)) as url, OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        assert client.images.generate(prompt="a red boat").data
    assert len(transport.requests) == 2


def test_an_error_in_the_middle_of_a_stream_is_raised() -> None:
    class Broken(FakeTransport):
        """Breaks after the first step."""

        def stream(self, tensors: Tensors, timeout_s: float | None = None) -> Generator[Tensors, None, None]:
            yield next(super().stream(tensors, timeout_s))
            raise ServerError("INTERNAL: it broke")

    with (
        listening(app_over(Broken(catalogue=CATALOGUE))) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none") as client,
        pytest.raises(openai.APIError, match="it broke") as caught,
    ):
        list(client.images.generate(prompt="a red boat", stream=True))
    assert (caught.value.type, caught.value.code) == ("server_error", "server_error")

"""Both clients over the shipped fake."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from contextlib import closing
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from impasto_client import (
    AsyncClient,
    AsyncFakeTransport,
    Client,
    Compose,
    FakeTransport,
    Generation,
    InvalidRequest,
    Options,
    Progress,
    ProtocolError,
    ServerUnavailable,
    StyleContent,
    StyleDrop,
)
from impasto_client.wire import Tensors


def test_the_fake_records_what_it_was_asked() -> None:
    fake = FakeTransport()
    Client(transport=fake).generate("a red boat", adapters={"neon": 0.5}, seed=7)
    assert [list(request) for request in fake.requests] == [["PROMPT", "ADAPTER_NAMES", "ADAPTER_WEIGHTS", "SEED"]]


def test_every_way_to_ask_takes_the_same_words(tmp_path: Path) -> None:
    fake = FakeTransport()
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"\xff\xd8")
    guidance = StyleContent(style=2, content=3, convention="code")
    words = Options(
        style=["sks03", "sks05"], guidance=guidance, image=photo, depth=Image.new("L", (2, 2)), strength=0.5
    )

    async def ask() -> None:
        client = AsyncClient(transport=AsyncFakeTransport(fake))
        await client.generate("a house", **words)
        async for _ in client.stream("a house", **words):
            pass

    Client(transport=fake).generate("a house", **words)
    list(Client(transport=fake).stream("a house", **words))
    asyncio.run(ask())
    first, *others = ({name: tensor.tolist() for name, tensor in request.items()} for request in fake.requests)
    assert (first["STYLE"], first["GUIDANCE"], first["IMAGE"]) == (
        [b"sks03", b"sks05"],
        [b"dreamstyler-code"],
        [b"\xff\xd8"],
    )
    assert others == [first] * 3


def test_a_picture_is_painted_finer_by_either_client(tmp_path: Path) -> None:
    fake, small = FakeTransport(), tmp_path / "small.png"
    small.write_bytes(b"\x89PNG")

    async def ask() -> None:
        await AsyncClient(transport=AsyncFakeTransport(fake)).upscale(small, "a house", upscale_steps=4, seed=1)

    Client(transport=fake).upscale(small, "a house", upscale_steps=4, seed=1)
    asyncio.run(ask())
    one, other = ({name: tensor.tolist() for name, tensor in request.items()} for request in fake.requests)
    assert one == other == {"PROMPT": [b"a house"], "SEED": [1], "UPSCALE_STEPS": [4], "BASE_IMAGE": [b"\x89PNG"]}


def test_a_second_picture_to_be_painted_finer_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="leave base_image out"):
        Client(transport=FakeTransport()).upscale(b"\x89PNG", "a house", base_image=b"\x89PNG")


def test_upscale_wants_a_picture() -> None:
    fake = FakeTransport()
    with pytest.raises(InvalidRequest, match="BASE_IMAGE: None is not a picture") as caught:
        Client(transport=fake).upscale(None, "a house")  # type: ignore[arg-type]
    assert caught.value.field == "BASE_IMAGE"
    assert not fake.requests


def test_the_fake_has_the_defaults_of_each_rule() -> None:
    client = Client(transport=FakeTransport())
    rules = [None, StyleContent(), StyleContent(style=2, scale=7), StyleDrop(style_strength=1), Compose(gamma=0.75)]
    metas = [client.generate("a house", guidance=rule).meta for rule in rules]
    said = ("guidance_scale", "style_guidance", "content_guidance", "style_strength", "text_strength", "gamma")
    assert [meta["guidance"] for meta in metas] == ["cfg", *["dreamstyler"] * 2, "styledrop", "styledrop-compose"]
    assert [[meta.get(name) for name in said] for meta in metas] == [
        [3.0, None, None, None, None, None],
        [5.0, 0.5, 3.0, None, None, None],
        [7.0, 2.0, 3.0, None, None, None],
        [None, None, None, 1.0, 5.0, None],
        [None, None, None, 2.0, 5.0, 0.75],
    ]


def test_the_fake_runs_the_share_of_the_steps_that_an_image_leaves() -> None:
    client = Client(transport=FakeTransport())
    asked: list[Options] = [{"steps": 10}, {"steps": 10, "image": b""}, {"steps": 10, "image": b"", "strength": 0.7}]
    assert [len(list(client.stream("a house", **words))) - 1 for words in asked] == [10, 8, 7]


def test_the_fake_names_every_embedding_once() -> None:
    meta = Client(transport=FakeTransport()).generate("a house", style=["sks03", "sks05", "sks03"]).meta
    assert isinstance(meta["embeddings"], list)
    assert [embedding["name"] for embedding in meta["embeddings"]] == ["sks03", "sks05"]


def test_the_fake_takes_a_style_for_an_adapter_where_the_rule_does() -> None:
    meta = (
        Client(transport=FakeTransport())
        .generate("a fish", style="stained-glass", content="my-toy", guidance=Compose())
        .meta
    )
    assert isinstance(meta["adapters"], list)
    assert [(adapter["name"], adapter["weight"]) for adapter in meta["adapters"]] == [
        ("stained-glass", 1.0),
        ("my-toy", 1.0),
    ]
    assert (meta["embeddings"], meta["content"]) == ([], "my-toy")


def test_a_candidate_is_what_its_seed_paints_alone() -> None:
    client = Client(transport=FakeTransport())
    many = client.generate("a red boat", seed=2**63 - 2, n=3)
    assert [candidate.seed for candidate in many.candidates] == [2**63 - 2, 2**63 - 1, 0]
    alone = [client.generate("a red boat", seed=candidate.seed) for candidate in many.candidates]
    assert many.candidates == tuple(one.candidates[0] for one in alone)
    assert len({candidate.data for candidate in many.candidates}) == 3
    assert (many.data, many.seed) == (alone[0].data, alone[0].seed)
    assert many.image is many.candidates[0].image


@pytest.mark.parametrize(
    ("words", "scored"),
    [
        (Options(n=8, rerank="text"), {"text": "a red boat"}),
        (Options(n=8, rerank="style", style_image=b"\x89PNG"), {"reference": b"\x89PNG"}),
    ],
)
def test_the_best_candidate_is_the_first(words: Options, scored: dict[str, Any]) -> None:
    client = Client(transport=FakeTransport())
    ranked = client.generate("a red boat", **words)
    scores = [candidate.score for candidate in ranked.candidates]
    pictures = [candidate.data for candidate in ranked.candidates]
    assert scores == client.score(pictures, **scored) == sorted(client.score(pictures, **scored), reverse=True)
    plain = client.generate("a red boat", n=8)
    assert {candidate.data for candidate in plain.candidates} == set(pictures)
    assert {candidate.score for candidate in plain.candidates} == {None}


def test_previews_show_every_candidate_in_the_order_of_the_seeds() -> None:
    client = Client(transport=FakeTransport())
    shown = next(client.stream("a red boat", seed=7, n=2, preview_every=1))
    alone = [next(client.stream("a red boat", seed=seed, preview_every=1)) for seed in (7, 8)]
    assert isinstance(shown, Progress)
    assert shown.previews == tuple(part.preview for part in alone if isinstance(part, Progress))


def test_scores_are_asked_for_with_a_timeout_of_their_own() -> None:
    fake = FakeTransport()
    client = Client(transport=fake, timeout=20)
    near, far = client.score([b"a fish", b"a house"], text="a fish")
    assert near == pytest.approx(1)
    assert -1 <= far < 0.9
    assert client.score([b"a", b"b"], reference=[b"a", b"b"], timeout=0.5) == pytest.approx([1, 1])
    assert [list(request) for request in fake.requests] == [["IMAGE", "TEXT"], ["IMAGE", "REFERENCE"]]
    assert fake.timeouts == [20, 0.5]
    with pytest.raises(ServerUnavailable, match="full"):
        Client(transport=FakeTransport(error=ServerUnavailable("full"))).score(b"a", text="a")


def test_the_async_client_scores_what_the_blocking_one_does() -> None:
    fake = FakeTransport()

    async def ask() -> list[float]:
        return await AsyncClient(transport=AsyncFakeTransport(fake)).score([b"a", b"b"], text="a", timeout=9)

    assert asyncio.run(ask()) == Client(transport=fake).score([b"a", b"b"], text="a", timeout=9)
    assert fake.timeouts == [9, 9]


@pytest.mark.parametrize("word", ["image", "depth", "style_image"])
def test_a_picture_is_read_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    threads: list[threading.Thread] = []
    open_ = Path.open

    def watched(path: Path, mode: str) -> object:
        threads.append(threading.current_thread())
        return open_(path, mode)

    monkeypatch.setattr(Path, "open", watched)
    client = AsyncClient(transport=AsyncFakeTransport())
    asyncio.run(client.generate("a house", **{word: Path(__file__)}))  # type: ignore[arg-type]
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


def test_the_same_request_brings_the_same_picture() -> None:
    client = Client(transport=FakeTransport())
    first, again = (client.generate("a red boat", seed=7).data for _ in range(2))
    other = client.generate("a red boat", seed=8).data
    assert first == again != other


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_the_fake_honours_size_and_format(format: str) -> None:
    image = Client(transport=FakeTransport()).generate("a red boat", width=64, height=32, format=format).image
    assert (image.size, image.format) == ((64, 32), format.upper())


def test_an_error_of_the_transport_reaches_the_caller() -> None:
    client = Client(transport=FakeTransport(error=ServerUnavailable("full")))
    with pytest.raises(ServerUnavailable, match="full"):
        client.generate("a red boat")


def test_leaving_the_context_closes_the_transport() -> None:
    fake = FakeTransport(ready=False)
    with Client(transport=fake) as client:
        assert not client.is_ready()
        assert not fake.closed
    assert fake.closed


def test_a_generation_is_frozen() -> None:
    generation = Client(transport=FakeTransport()).generate("a red boat")
    with pytest.raises(FrozenInstanceError):
        generation.seed = 1  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        generation.timings.total_ms = 1  # type: ignore[misc]


def test_the_async_client_does_what_the_blocking_one_does() -> None:
    fake = FakeTransport()

    async def ask() -> bytes:
        async with AsyncClient(transport=AsyncFakeTransport(fake)) as client:
            assert await client.is_ready()
            pictures = await asyncio.gather(*(client.generate("a red boat", seed=seed) for seed in range(3)))
        return pictures[1].data

    assert asyncio.run(ask()) == Client(transport=FakeTransport()).generate("a red boat", seed=1).data
    assert (len(fake.requests), fake.closed) == (3, True)


def test_a_word_that_is_no_option_is_told_the_nearest() -> None:
    with pytest.raises(TypeError, match="no option 'stepz'; did you mean 'steps'"):
        Client(transport=FakeTransport()).generate("a red boat", stepz=3)  # type: ignore[call-arg]


def test_a_timeout_is_the_clients_or_the_calls_own() -> None:
    fake = FakeTransport()
    client = Client(transport=fake, timeout=20)
    client.generate("a red boat")
    client.generate("a red boat", timeout=0.5)
    list(client.stream("a red boat", timeout=0.25))
    list(Client(transport=fake, timeout=None).stream("a red boat"))
    assert fake.timeouts == [20, 0.5, 0.25, None]


def test_a_stream_is_every_step_and_then_what_generate_gives() -> None:
    client = Client(transport=FakeTransport())
    *steps, last = client.stream("a red boat", steps=3, seed=7)
    told = [(part.step, part.steps, part.eta_s) for part in steps if isinstance(part, Progress)]
    assert told == [(1, 3, pytest.approx(0.2)), (2, 3, pytest.approx(0.1)), (3, 3, 0.0)]
    assert last == client.generate("a red boat", steps=3, seed=7)


def test_previews_come_as_often_as_was_asked() -> None:
    parts = list(Client(transport=FakeTransport()).stream("a red boat", steps=6, preview_every=2))
    shown = {part.step: part.image for part in parts if isinstance(part, Progress)}
    assert [step for step, image in shown.items() if image is not None] == [2, 4]
    assert (shown[2] and shown[2].size) == (2, 2)


def test_a_preview_is_decoded_once() -> None:
    first = next(Client(transport=FakeTransport()).stream("a red boat", preview_every=1))
    assert first.image is first.image is not None


def test_leaving_a_stream_cancels_it() -> None:
    fake = FakeTransport()
    for part in Client(transport=fake).stream("a red boat"):
        if isinstance(part, Progress) and part.step == 2:
            break
    assert fake.cancelled == 1
    with closing(Client(transport=fake).stream("a red boat")) as parts:
        next(parts)
    assert fake.cancelled == 2


def test_leaving_at_the_picture_cancels_nothing() -> None:
    fake = FakeTransport()
    for part in Client(transport=fake).stream("a red boat"):
        if isinstance(part, Generation):
            break
    assert fake.cancelled == 0


def test_a_stream_is_asked_for_when_it_is_iterated() -> None:
    fake = FakeTransport(error=ServerUnavailable("stopping"))
    parts = Client(transport=fake).stream("a red boat")
    assert not fake.requests
    with pytest.raises(ServerUnavailable, match="stopping"):
        next(parts)


def test_a_stream_without_a_picture_is_a_protocol_error() -> None:
    class Pictureless(FakeTransport):
        def stream(self, tensors: Tensors, timeout_s: float | None = None) -> Generator[Tensors, None, None]:
            yield from list(super().stream(tensors, timeout_s))[:-1]

    async def ask() -> None:
        async for _ in AsyncClient(transport=AsyncFakeTransport(Pictureless())).stream("a red boat"):
            pass

    with pytest.raises(ProtocolError, match="without a picture"):
        list(Client(transport=Pictureless()).stream("a red boat"))
    with pytest.raises(ProtocolError, match="without a picture"):
        asyncio.run(ask())


def test_the_async_client_streams_what_the_blocking_one_does() -> None:
    fake = FakeTransport()

    async def ask() -> list[Progress | Generation]:
        client = AsyncClient(transport=AsyncFakeTransport(fake))
        async for _ in client.stream("a red boat", steps=3):
            break
        return [part async for part in client.stream("a red boat", steps=3, preview_every=1, timeout=9)]

    assert asyncio.run(ask()) == list(Client(transport=fake).stream("a red boat", steps=3, preview_every=1))
    assert (fake.cancelled, fake.timeouts[1]) == (1, 9)


def test_the_fake_server_misses_the_picture_that_candidates_are_compared_with() -> None:
    with pytest.raises(InvalidRequest) as refused:
        Client(transport=FakeTransport()).generate("a red fish", n=2, rerank="style")
    assert refused.value.field == "STYLE_IMAGE"

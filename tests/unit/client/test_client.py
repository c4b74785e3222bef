"""Both clients over the shipped fake."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import FrozenInstanceError

import pytest

from impasto_client import (
    AsyncClient,
    AsyncFakeTransport,
    Client,
    FakeTransport,
    ServerUnavailable,
)
from impasto_client.wire import encode


def test_the_fake_records_what_it_was_asked() -> None:
    fake = FakeTransport()
    Client(transport=fake).generate("a red boat", styles={"neon": 0.5}, seed=7)
    assert [list(request) for request in fake.requests] == [["PROMPT", "ADAPTER_NAMES", "ADAPTER_WEIGHTS", "SEED"]]


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


def test_clients_and_wire_share_their_words() -> None:
    words = _parameters(encode)
    assert (
        _parameters(Client.generate) == _parameters(AsyncClient.generate) == {"self": inspect.Parameter.empty, **words}
    )


def _parameters(function: object) -> dict[str, object]:
    assert callable(function)
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}

"""The servers behind a gateway: which one is asked, and what is remembered of them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from impasto_client import AsyncClient, AsyncFakeTransport, FakeTransport
from impasto_client.errors import ConnectError, InvalidRequest, ServerFull
from impasto_gateway import upstream as module
from impasto_gateway.upstream import Turn, Upstream
from tests.helpers.gateways import fake


def over(*fakes: FakeTransport) -> tuple[Upstream, list[AsyncClient]]:
    clients = [AsyncClient(transport=AsyncFakeTransport(one)) for one in fakes]
    return Upstream.over(*clients), clients


async def failed(upstream: Upstream, clients: list[AsyncClient], error: Exception) -> int:
    """Where a request went that failed so."""
    place = await chosen(upstream, clients)
    with pytest.raises(type(error)):
        async with upstream.client():
            raise error
    return place


async def chosen(upstream: Upstream, clients: list[AsyncClient]) -> int:
    async with upstream.client() as client:
        return clients.index(client)


def test_requests_go_where_the_fewest_are_in_flight() -> None:
    async def places() -> list[int]:
        upstream, clients = over(fake(), fake(), fake())
        async with AsyncExitStack() as stack:
            return [clients.index(await stack.enter_async_context(upstream.client())) for _ in range(6)]

    assert sorted(asyncio.run(places())) == [0, 0, 1, 1, 2, 2]


def test_a_request_knows_how_many_others_share_its_server() -> None:
    async def told() -> list[list[int]]:
        upstream, _ = over(fake(), fake())
        turns = [Turn() for _ in range(4)]
        seen = [[turn.others for turn in turns]]
        async with AsyncExitStack() as stack:
            for turn in turns[:3]:
                await stack.enter_async_context(upstream.painter(turn))
            async with upstream.client():  # it paints nothing
                seen.append([turn.others for turn in turns])
            async with upstream.painter(turns[3]):
                seen.append([turn.others for turn in turns])
            seen.append([turn.others for turn in turns[:3]])
        return [*seen, [turn.others for turn in turns]]

    none = [0, 0, 0, 0]
    assert asyncio.run(told()) == [none, [1, 0, 1, 0], [1, 1, 1, 1], [1, 0, 1], none]


def test_a_server_that_is_not_ready_is_passed_over() -> None:
    async def place() -> int:
        return await chosen(*over(fake(ready=False), fake()))

    assert asyncio.run(place()) == 1


def test_a_server_that_fails_is_passed_over_until_it_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def places() -> list[int]:
        upstream, clients = over(fake(), fake())
        found = [await failed(upstream, clients, ConnectError("it is gone")), await chosen(upstream, clients)]
        monkeypatch.setattr(module, "FRESH_S", 0.0)
        return [*found, await chosen(upstream, clients)]

    assert asyncio.run(places()) == [0, 1, 0]


@pytest.mark.parametrize("error", [ServerFull("it is full", 1.0), InvalidRequest("STEPS: no")])
def test_a_server_that_refuses_is_none_that_fails(error: Exception) -> None:
    async def place() -> int:
        upstream, clients = over(fake(), fake())
        await failed(upstream, clients, error)
        return await chosen(upstream, clients)

    assert asyncio.run(place()) == 0


def test_where_none_seems_ready_one_is_tried_all_the_same() -> None:
    async def place() -> int:
        return await chosen(*over(fake(ready=False), fake(ready=False)))

    assert asyncio.run(place()) in (0, 1)


def test_one_ready_server_is_enough() -> None:
    assert asyncio.run(over(fake(ready=False), fake())[0].ready())
    assert not asyncio.run(over(fake(ready=False), fake(ready=False))[0].ready())


class Hanging(AsyncFakeTransport):
    """Was ready once, and has hung since."""

    asked = 0

    async def is_ready(self) -> bool:
        self.asked += 1
        if self.asked > 1:
            await asyncio.Event().wait()
        return True


def test_a_server_that_hangs_is_not_ready_for_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBE_S", 0.1)
    transport = Hanging(fake())

    async def ready() -> tuple[bool, list[bool]]:
        upstream = Upstream.over(AsyncClient(transport=transport))
        before = await upstream.ready()
        monkeypatch.setattr(module, "FRESH_S", -1.0)  # the next one asks anew
        return before, await asyncio.gather(*(upstream.ready() for _ in range(3)))

    assert asyncio.run(ready()) == (True, [False, False, False])
    assert transport.asked == 2, "three who ask together ask once"


def test_the_catalogue_is_read_once_for_many() -> None:
    one = fake()

    async def read() -> None:
        upstream, _ = over(one)
        await asyncio.gather(*(upstream.catalogue() for _ in range(9)))
        await upstream.catalogue()

    asyncio.run(read())
    assert len(one.timeouts) == 1


def test_a_changed_registry_is_read_anew() -> None:
    one = fake()

    async def read() -> None:
        upstream, _ = over(one)
        await upstream.catalogue()
        upstream.forget()
        await upstream.catalogue()

    asyncio.run(read())
    assert len(one.timeouts) == 2


def test_who_leaves_does_not_take_the_catalogue_from_others() -> None:
    class Slow(AsyncFakeTransport):
        async def catalogue(self, timeout_s: float | None = None):  # type: ignore[no-untyped-def]
            await asyncio.sleep(0.05)
            return await super().catalogue(timeout_s)

    async def read() -> str:
        upstream = Upstream.over(AsyncClient(transport=Slow(fake())))
        leaving, staying = (asyncio.create_task(upstream.catalogue()) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        return (await staying).default

    assert asyncio.run(read()) == "studio"


def test_a_failure_to_read_the_catalogue_is_not_remembered() -> None:
    one = fake(error=ConnectError("it is gone"))

    async def read() -> str:
        upstream, _ = over(one)
        with pytest.raises(ConnectError):
            await upstream.catalogue()
        one.error = None
        return (await upstream.catalogue()).default

    assert asyncio.run(read()) == "studio"


def test_all_connections_are_closed() -> None:
    fakes = [fake(), fake()]

    async def closed() -> None:
        upstream, clients = over(*fakes)
        for _ in clients:
            await upstream.ready()
        await upstream.close()

    asyncio.run(closed())
    assert [one.closed for one in fakes] == [True, True]


def test_a_url_that_is_none_is_told_when_it_is_used() -> None:
    with pytest.raises(ConnectError, match="is not a host:port"):
        asyncio.run(Upstream.of(["http://localhost"]).catalogue())

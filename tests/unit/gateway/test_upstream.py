"""The servers behind a gateway: which one is asked, and what is remembered of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress

import pytest

from impasto_client import AsyncClient, AsyncFakeTransport, FakeTransport
from impasto_client.errors import ConnectError, ImpastoError, InvalidRequest, ServerDeclined, ServerFull, ServerLost
from impasto_gateway import server as module
from impasto_gateway.routing import Costs, Wanted
from impasto_gateway.turn import Turn
from impasto_gateway.upstream import Upstream
from tests.helpers.gateways import fake


def over(*fakes: FakeTransport) -> tuple[Upstream, list[AsyncClient]]:
    clients = [AsyncClient(transport=AsyncFakeTransport(one)) for one in fakes]
    return Upstream.over(*clients), clients


def turn(*adapters: str, spread: str = "") -> Turn:
    return Turn(Wanted("studio", frozenset(adapters), spread))


async def failed(upstream: Upstream, clients: list[AsyncClient], error: Exception, *adapters: str) -> int:
    """Where a request went that failed so."""
    one = turn(*adapters)
    with suppress(type(error)):
        async with upstream.painter(one):
            raise error
    assert one.server is not None
    return clients.index(one.server.client)


async def chosen(upstream: Upstream, clients: list[AsyncClient], *adapters: str) -> int:
    async with upstream.painter(turn(*adapters)) as client:
        return clients.index(client)


def test_requests_go_where_the_fewest_are_in_flight() -> None:
    async def places() -> list[int]:
        upstream, clients = over(fake(), fake(), fake())
        async with AsyncExitStack() as stack:
            return [clients.index(await stack.enter_async_context(upstream.painter(turn()))) for _ in range(6)]

    assert Counter(asyncio.run(places())) == {0: 2, 1: 2, 2: 2}


def test_an_adapter_stays_where_it_is_until_the_queue_costs_more_than_a_load() -> None:
    """A load counts twice (routing.COUNTED), so three requests wait there before the fourth goes elsewhere."""

    async def places() -> list[int]:
        _, clients = over(fake(), fake())
        upstream = Upstream.over(*clients, costs=Costs(request_s=1.0, write_s=1.0, fetch_s=1.2))
        async with AsyncExitStack() as stack:
            return [clients.index(await stack.enter_async_context(upstream.painter(turn("neon")))) for _ in range(5)]

    home, *others = asyncio.run(places())
    assert [one == home for one in others] == [True, True, False, False]


def test_requests_one_after_another_go_home() -> None:
    async def places(names: Iterable[str]) -> list[int]:
        upstream, clients = over(fake(), fake(), fake())
        return [await chosen(upstream, clients, name) for name in names for _ in range(3)]

    names = [str(place) for place in range(30)]
    found, again = asyncio.run(places(names)), asyncio.run(places(names))
    assert found == again, "another gateway sends them there, too"
    assert found[::3] == found[1::3] == found[2::3]
    assert set(found) == {0, 1, 2}


def test_a_server_that_was_lost_has_lost_its_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are home elsewhere now, and stay there when it is back."""

    async def places() -> list[int]:
        upstream, clients = over(fake(), fake())
        first = await failed(upstream, clients, ServerLost("it is gone"), "neon")
        second = await chosen(upstream, clients, "neon")
        monkeypatch.setattr(module, "FRESH_S", 0.0)
        return [first, second, await chosen(upstream, clients, "neon")]

    first, *later = asyncio.run(places())
    assert later == [1 - first] * 2


def test_what_a_request_takes_is_learnt() -> None:
    """Where pictures take milliseconds, a load costs more than a queue of ten."""

    async def places() -> list[int]:
        upstream, clients = over(fake(), fake())
        for _ in range(100):
            await chosen(upstream, clients, "neon")
        async with AsyncExitStack() as stack:
            return [clients.index(await stack.enter_async_context(upstream.painter(turn("neon")))) for _ in range(10)]

    assert len(set(asyncio.run(places()))) == 1


def test_a_request_knows_how_many_others_share_its_server() -> None:
    async def told() -> list[list[int]]:
        upstream, _ = over(fake(), fake())
        turns = [turn(spread=str(place)) for place in range(4)]
        seen = [[one.others for one in turns]]
        async with AsyncExitStack() as stack:
            for one in turns:
                await stack.enter_async_context(upstream.painter(one))
            await upstream.catalogue()  # it paints nothing
            seen.append([one.others for one in turns])
        return [*seen, [one.others for one in turns]]

    none = [0, 0, 0, 0]
    assert asyncio.run(told()) == [none, [1, 1, 1, 1], none]


def test_a_server_that_is_not_ready_is_passed_over() -> None:
    async def place() -> int:
        return await chosen(*over(fake(ready=False), fake()))

    assert asyncio.run(place()) == 1


@pytest.mark.parametrize("error", [ConnectError("it is gone"), ServerLost("it is gone"), ServerDeclined("it stops")])
def test_a_server_that_fails_is_passed_over_until_it_is_asked_again(
    error: ImpastoError, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def places() -> list[int]:
        upstream, clients = over(fake(), fake())
        found = [await failed(upstream, clients, error), await chosen(upstream, clients)]
        monkeypatch.setattr(module, "FRESH_S", 0.0)
        return [*found, await chosen(upstream, clients)]

    first, second, third = asyncio.run(places())
    assert (second, third) == (1 - first, first)


@pytest.mark.parametrize("error", [ServerFull("it is full", 1.0), InvalidRequest("STEPS: no")])
def test_a_server_that_refuses_is_none_that_fails(error: Exception) -> None:
    async def places() -> tuple[int, int]:
        upstream, clients = over(fake(), fake())
        return await failed(upstream, clients, error), await chosen(upstream, clients)

    first, second = asyncio.run(places())
    assert first == second


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


@pytest.mark.parametrize("error", [ConnectError("it is gone"), ServerLost("it is gone"), ServerDeclined("it stops")])
def test_the_catalogue_is_read_elsewhere_where_a_server_is_gone(error: ImpastoError) -> None:
    """Before anybody has noticed that it is."""
    gone, there = fake(error=error), fake()
    assert asyncio.run(over(gone, there)[0].catalogue()).default == "studio"
    assert (len(gone.timeouts), len(there.timeouts)) == (1, 1)


def test_what_one_server_refuses_no_other_is_asked() -> None:
    full, other = fake(error=ServerFull("it is full", 1.0)), fake()
    with pytest.raises(ServerFull):
        asyncio.run(over(full, other)[0].catalogue())
    assert not other.timeouts


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

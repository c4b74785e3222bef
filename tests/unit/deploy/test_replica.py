"""A replica's methods, over a fake server in the place of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from impasto_client import AsyncFakeTransport, FakeTransport
from impasto_client.errors import ConnectError, InvalidRequest, ServerLost
from impasto_client.wire import encode, encode_stream
from impasto_deploy.ray import replica as module
from impasto_deploy.ray import server
from impasto_deploy.ray.failure import Failure
from impasto_deploy.ray.keeper import GaveUp
from impasto_deploy.ray.replica import QUEUE_DELAY_S, Replica, ReplicaSettings, shared
from impasto_deploy.ray.request import Routed
from impasto_gateway.routing import Wanted
from tests.helpers.waiting import eventually
from tests.unit.deploy import standin

ROUTED = Routed(Wanted(""))
BOAT = encode("a boat")


class Made:
    """Replicas whose servers are stand-ins, which are reached over `fake`."""

    def __init__(self) -> None:
        self.fake = FakeTransport()
        self.replicas: list[Replica] = []

    def __call__(self, *options: str, **settings: Any) -> Replica:
        self.replicas.append(Replica(ReplicaSettings(options, grace_s=5, **settings)))
        return self.replicas[-1]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    made = Made()
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="replica-1"), rank=SimpleNamespace(local_rank=0))
    monkeypatch.setattr(server, "_impasto", lambda: str(standin.impasto(tmp_path)))
    monkeypatch.setattr("ray.serve.get_replica_context", lambda: context)
    monkeypatch.setattr(module, "AsyncGrpcTransport", lambda url: AsyncFakeTransport(made.fake))
    yield made
    for replica in made.replicas:
        replica.__del__()


def test_pictures_scores_and_the_catalogue(made: Made) -> None:
    async def main() -> None:
        replica = made()
        picture = await replica.infer(ROUTED, BOAT, 7.0)
        assert isinstance(picture, dict)
        assert "IMAGE" in picture
        scores = await replica.score(ROUTED, {"IMAGE": picture["IMAGE"], "TEXT": BOAT["PROMPT"]}, None)
        assert "SCORE" in scores if isinstance(scores, dict) else False
        assert "CATALOGUE" in dict(await replica.catalogue(ROUTED, {}, None))  # type: ignore[arg-type]
        assert made.fake.timeouts == [7.0, None, None]
        assert replica.record_autoscaling_stats()[QUEUE_DELAY_S] >= 0

    asyncio.run(main())


def test_a_stream(made: Made) -> None:
    async def main() -> None:
        parts = [part async for part in made().stream(ROUTED, encode_stream("a boat", 1, steps=2), None)]
        assert ["IMAGE" in part if isinstance(part, dict) else None for part in parts] == [False, False, True]

    asyncio.run(main())


def test_errors_are_values(made: Made) -> None:
    async def main() -> None:
        replica = made()
        made.fake.error = InvalidRequest("STEPS: 0 is too few", "STEPS")
        told = Failure("InvalidRequest", "STEPS: 0 is too few", "replica-1", "STEPS")
        assert await replica.infer(ROUTED, BOAT, None) == told
        assert [part async for part in replica.stream(ROUTED, BOAT, None)] == [told]

    asyncio.run(main())


def test_a_server_that_is_not_ready_is_told_to_routers_and_does_not_end_the_replica(made: Made) -> None:
    async def main() -> None:
        replica = made()
        assert await replica.record_routing_stats() == {"ready": True, "emptied": 0, "held": {}}
        made.fake.ready = False
        assert await replica.record_routing_stats() == {"ready": False, "emptied": 0, "held": {}}
        await replica.check_health()

    asyncio.run(main())


def test_routers_hear_what_it_holds_until_its_server_is_lost(made: Made) -> None:
    async def main() -> None:
        replica, routed = made(), Routed(Wanted("words", frozenset({"neon", "ink"})))
        await replica.infer(routed, BOAT, None)
        assert (await replica.record_routing_stats())["held"] == {"words": ["ink", "neon"]}
        made.fake.error = ServerLost("the connection was lost")
        await replica.infer(routed, BOAT, None)
        assert await replica.record_routing_stats() == {"ready": True, "emptied": 1, "held": {"words": []}}

    asyncio.run(main())


def test_while_there_is_no_server_requests_fail_at_once(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        replica = made()
        monkeypatch.setattr(type(replica._keeper), "url", None)
        failed = await replica.infer(ROUTED, BOAT, None)
        assert isinstance(failed, Failure)
        assert isinstance(failed.error(), ConnectError)
        assert not await replica.is_ready()
        await replica.check_health()

    asyncio.run(main())


def test_a_replica_whose_server_can_not_start_says_why(made: Made) -> None:
    with pytest.raises(GaveUp, match="bundle: there is none"):
        made("--broken")


def test_a_server_that_ends_too_often_ends_the_replica(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("impasto_deploy.ray.keeper.DEATHS", 0)
    replica = made()
    assert replica._keeper._running is not None
    replica._keeper._running.process.kill()  # type: ignore[attr-defined]

    def is_unwell() -> bool:
        try:
            asyncio.run(replica.check_health())
        except GaveUp:
            return True
        return False

    eventually(is_unwell)
    assert isinstance(asyncio.run(replica.infer(ROUTED, BOAT, None)), Failure)
    assert asyncio.run(replica.record_routing_stats())["ready"] is False


def test_its_options(made: Made) -> None:
    settings = ReplicaSettings(("--bundle", "toy"), threads=2, grace_s=5)
    assert settings.command() == ["--bundle", "toy", "--threads", "2", "--grace", "5", "--quiet"]


@pytest.mark.parametrize(
    ("rank", "threads", "cores"), [(0, 1, [4]), (1, 1, [5]), (1, 2, [6, 7]), (2, 2, [4, 5]), (0, 9, [4, 5, 6, 7])]
)
def test_each_replica_has_its_share_of_the_cores(rank: int, threads: int, cores: list[int]) -> None:
    assert shared([4, 5, 6, 7], rank, ReplicaSettings((), threads)) == cores
